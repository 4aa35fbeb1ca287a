#include "trainer/kernel_name.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/text.h"

namespace swiattn {
namespace {

std::string_view trimmed(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  return text;
}

// Copies and fills on the GPU, whose names are sentences.
bool is_no_function(std::string_view name) {
  return name.starts_with("Memcpy") || name.starts_with("Memset");
}

// A kernel of this project: its file tells what it does, its name is "forward" or "update".
bool is_own(std::string_view name) {
  if (name.starts_with("void ")) name.remove_prefix(5);
  return name.starts_with("swiattn::");
}

// Without everything in parentheses, braces and brackets: arguments, anonymous namespaces, lambdas.
std::string without_groups(std::string_view text) {
  std::string kept;
  int depth = 0;
  for (const char c : text) {
    if (c == '(' || c == '{' || c == '[') ++depth;
    if (depth == 0) kept += c;
    if (depth > 0 && (c == ')' || c == '}' || c == ']')) --depth;
  }
  return kept;
}

// Where the parentheses of the arguments open, or npos when the name does not end in arguments.
size_t start_of_arguments(std::string_view name) {
  if (!name.ends_with(')')) return std::string_view::npos;
  int depth = 0;
  for (size_t i = name.size(); i-- > 0;) {
    if (name[i] == ')') ++depth;
    if (name[i] == '(' && --depth == 0) return i;
  }
  return std::string_view::npos;
}

// The return type ends at the last blank outside of template arguments.
std::string_view without_return_type(std::string_view name) {
  int depth = 0;
  for (size_t i = name.size(); i-- > 0;) {
    if (name[i] == '>') ++depth;
    if (name[i] == '<') --depth;
    if (name[i] == ' ' && depth == 0) return name.substr(i + 1);
  }
  return name;
}

// The last part of a qualified name that says something: "at::native::::copy::operator const" has
// lost the groups of a lambda, and "copy" is what is left.
std::string_view last_part(std::string_view qualified) {
  while (!qualified.empty()) {
    const size_t colons = qualified.rfind("::");
    const size_t begin = colons == std::string_view::npos ? 0 : colons + 2;
    const std::string_view part = trimmed(qualified.substr(begin));
    if (!part.empty() && !part.starts_with("operator")) return part;
    qualified = qualified.substr(0, begin == 0 ? 0 : colons);
  }
  return {};
}

// Every name between angle brackets and commas by its last part.
std::string without_namespaces(std::string_view text) {
  std::string result;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find_first_of("<>,", begin), text.size());
    const std::string_view name = text.substr(begin, end - begin);
    const std::string_view last = last_part(name);
    if (result.ends_with('>')) {  // a member of the template, or "const&"
      if (!last.empty()) result += name.starts_with("::") ? fmt::format("::{}", last) : name;
    } else {
      if (result.ends_with(',')) result += ' ';
      result += last;
    }
    if (end < text.size()) result += text[end];
    begin = end + 1;
  }
  return result;
}

std::string callee(std::string_view name) {
  const std::string text = without_groups(name.substr(0, start_of_arguments(name)));
  return without_namespaces(without_return_type(trimmed(text)));
}

}  // namespace

std::string short_kernel_name(const std::string& name) {
  if (is_own(name)) return short_kernel_signature(name);
  return shorten(is_no_function(name) ? name : callee(name), kLongestKernelName);
}

std::string short_kernel_signature(const std::string& name) {
  const size_t start = start_of_arguments(name);
  if (is_no_function(name)) return shorten(name, kLongestKernelName);
  if (start == std::string::npos) return shorten(callee(name), kLongestKernelName);
  const std::string_view inner = std::string_view(name).substr(start + 1, name.size() - start - 2);
  return shorten(callee(name) + "(" + without_namespaces(without_groups(inner)) + ")",
                 kLongestKernelName);
}

}  // namespace swiattn
