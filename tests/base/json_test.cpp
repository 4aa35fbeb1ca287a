#include "base/json.h"

#include <limits>

#include "tests/base/expect_error.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

Json parse(std::string_view text) { return parse_json(text, "x.json", ExitCode::kCheckpoint); }
std::string refusal(std::string_view text) {
  return sentence_of(ExitCode::kCheckpoint, [&] { parse(text); });
}
JsonCursor cursor(const Json& json) { return JsonCursor(json, "x.json", ExitCode::kData); }

TEST(Json, ReadsWhatNlohmannReads) {
  const std::string text =
      R"({"a":[1,-2,3.5,true,false,null,"tä\u00e9\n",[],{}],"b":{"c":18446744073709551615}})";
  EXPECT_EQ(parse(text), Json::parse(text));
  EXPECT_EQ(parse("3"), Json(3));
  EXPECT_EQ(parse(" \n\"x\" "), Json("x"));
  EXPECT_EQ(parse("[[1],[2,[3]]]").dump(), "[[1],[2,[3]]]");
}

TEST(Json, NamesThatAreNotUtf8AreWrittenAllTheSame) {
  EXPECT_EQ(dump_json(Json{{"name", "a\xff"}}), "{\"name\":\"a\ufffd\"}");
  EXPECT_EQ(dump_json(nlohmann::ordered_json{{"b", "\xe9"}, {"a", 1}}, 1),
            "{\n \"b\": \"\ufffd\",\n \"a\": 1\n}");
}

TEST(Json, ADuplicateKeyIsRefusedWithItsPlace) {
  EXPECT_EQ(refusal("{\"a\": 1,\n \"b\": 2,\n \"a\": 3}"),
            "x.json:3:4: this is not valid JSON: the key \"a\" stands twice in one object.");
  EXPECT_NO_THROW(parse(R"([{"a":1},{"a":2},{"b":{"a":1},"a":1}])"));
  EXPECT_THAT(refusal(R"({"a":1,"\u0061":2})"), HasSubstr("stands twice"));
}

TEST(Json, NestingDeeperThanAHundredIsRefused) {
  EXPECT_NO_THROW(parse(std::string(100, '[') + std::string(100, ']')));
  EXPECT_THAT(refusal(std::string(101, '[') + std::string(101, ']')),
              HasSubstr("x.json:1:101: this is not valid JSON: nesting is deeper"));
  EXPECT_THAT(refusal(std::string(1000000, '[')), HasSubstr("nesting"));
  std::string objects;
  for (int i = 0; i < 200; ++i) objects += "{\"a\":";
  EXPECT_THAT(refusal(objects), HasSubstr("nesting"));
}

TEST(Json, SyntaxErrorsNameLineAndColumn) {
  EXPECT_THAT(refusal("{\n  \"a\": ,\n}"), StartsWith("x.json:2:8: this is not valid JSON: "));
  for (const char* text :
       {"",         "{",   "[1,]",    "{\"a\"}",     "{a:1}",   "nul",   "01",     "1.",
        "+1",       "'a'", "1 2",     "{} {}",       "[1] x",   "\"a",   "\"\t\"", "NaN",
        "Infinity", "-",   "// c\n1", "\"\\ud800\"", "\"\\x\"", "1e999", "[1}"}) {
    EXPECT_THAT(refusal(text), StartsWith("x.json:")) << text;
    EXPECT_THAT(refusal(text), Not(HasSubstr("json.exception"))) << text;
  }
}

TEST(Json, InvalidUtf8IsRefused) {
  for (const char* text :
       {"\"\xff\"", "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", "\"\xc3", "{\"\x80\":1}"}) {
    EXPECT_THAT(refusal(text), StartsWith("x.json:")) << text;
  }
}

TEST(Json, ReadsFilesUpToALimit) {
  const TemporaryFolder folder;
  write_file(folder.file("a.json"), "{\"a\": 1}");
  EXPECT_EQ(read_json_file(folder.file("a.json"), ExitCode::kData)["a"], 1);
  EXPECT_THAT(sentence_of(ExitCode::kData,
                          [&] { read_json_file(folder.file("a.json"), ExitCode::kData, 7); }),
              HasSubstr("larger than the 7 bytes"));
  EXPECT_THAT(
      sentence_of(ExitCode::kData, [&] { read_json_file(folder.file("b.json"), ExitCode::kData); }),
      HasSubstr("b.json' cannot be opened: No such file"));
}

TEST(JsonCursor, FindsItsWayAndNamesItInErrors) {
  const Json json = parse(R"({"rope": {"factor": "x", "list": [1, {"deep": null}]}})");
  const JsonCursor root = cursor(json);
  EXPECT_EQ(root["rope"]["list"].at(0).integer(0, 9), 1);
  EXPECT_EQ(root["rope"]["list"].at(1)["deep"].path(), "rope.list[1].deep");
  EXPECT_EQ(root["rope"]["factor"].string(), "x");
  EXPECT_EQ(sentence_of(ExitCode::kData, [&] { root["rope"]["factor"].number(); }),
            "x.json: rope.factor: expected a number, found \"x\".");
  EXPECT_EQ(sentence_of(ExitCode::kData, [&] { root["rope"]["bass"]; }),
            "x.json: rope.bass: this key is missing.");
  EXPECT_EQ(sentence_of(ExitCode::kData, [&] { root["rope"]["list"].at(2); }),
            "x.json: rope.list: expected at least 3 elements, found 2.");
  EXPECT_EQ(sentence_of(ExitCode::kData, [&] { root.integer(0, 1); }),
            "x.json: expected a whole number from 0 to 1, found an object.");
  EXPECT_EQ(sentence_of(ExitCode::kData, [&] { root["rope"].at(0); }),
            "x.json: rope: expected a list, found an object.");
  EXPECT_EQ(sentence_of(ExitCode::kData, [&] { root["rope"]["list"]["a"]; }),
            "x.json: rope.list: expected an object, found a list.");
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { root["rope"]["list"].keys(); }),
              HasSubstr("expected an object"));
  EXPECT_EQ(root["rope"].keys(), (std::vector<std::string>{"factor", "list"}));
}

TEST(JsonCursor, HasMeansPresentAndNotNull) {
  const Json json = parse(R"({"a": 0, "b": null})");
  EXPECT_TRUE(cursor(json).has("a"));
  EXPECT_FALSE(cursor(json).has("b"));
  EXPECT_FALSE(cursor(json).has("c"));
  EXPECT_FALSE(cursor(json)["a"].has("x"));
}

TEST(JsonCursor, IntegersNeverWrapOrRound) {
  const auto integer = [](const char* text) {
    const Json json = parse(text);
    return cursor(json).integer(-5, INT64_MAX);
  };
  EXPECT_EQ(integer("-5"), -5);
  EXPECT_EQ(integer("9223372036854775807"), INT64_MAX);
  for (const char* text : {"9223372036854775808", "18446744073709551615", "18446744073709551616",
                           "-6", "1.9", "1.0", "1e3", "true", "\"1\"", "null"}) {
    EXPECT_THAT(sentence_of(ExitCode::kData, [&] { integer(text); }),
                HasSubstr("expected a whole number"))
        << text;
  }
}

TEST(JsonCursor, OtherTypesAreNotConvertedEither) {
  const Json json = parse(R"({"n": 1, "t": "true", "b": true})");
  EXPECT_EQ(cursor(json)["n"].number(), 1.0);
  EXPECT_TRUE(cursor(json)["b"].boolean());
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { cursor(json)["t"].boolean(); }),
              HasSubstr("t: expected true or false, found \"true\""));
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { cursor(json)["n"].boolean(); }),
              HasSubstr("found 1"));
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { cursor(json)["n"].string(); }),
              HasSubstr("expected a text, found 1"));
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { cursor(json)["b"].number(); }),
              HasSubstr("expected a number, found true"));
}

TEST(JsonCursor, ANonFiniteNumberMadeByAProgramIsRefused) {
  const Json json = std::numeric_limits<double>::infinity();
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { cursor(json).number(); }),
              HasSubstr("expected a number"));
}

TEST(JsonCursor, LongValuesAreShortenedInErrors) {
  const Json json = std::string(1000, 'x');
  EXPECT_LT(sentence_of(ExitCode::kData, [&] { cursor(json).number(); }).size(), 120u);
}

}  // namespace
}  // namespace swiattn
