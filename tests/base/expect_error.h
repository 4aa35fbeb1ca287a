// Expecting an Error and looking at its sentence.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace swiattn {

// Runs `action` and gives the sentence of the Error it throws, which must carry `code`. When it
// throws none, the test fails.
template <class Action>
std::string sentence_of(ExitCode code, Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return {};
}

}  // namespace swiattn
