#include "base/yaml.h"

#include "tests/base/expect_error.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

YamlNode parse(std::string_view text) { return parse_yaml(text, "run.yaml"); }
std::string refusal(std::string_view text) {
  return sentence_of(ExitCode::kConfiguration, [&] { parse(text); });
}

TEST(Yaml, EveryValueKnowsItsLine) {
  const YamlNode root = parse("# a run\na: 1\nb:\n  c: [x, 'y z']\n  d: {e: null, f: ~, g: }\n");
  ASSERT_EQ(root.kind, YamlNode::Kind::kMap);
  EXPECT_EQ(root.find("a")->text, "1");
  EXPECT_EQ(root.find("a")->place, "run.yaml:2");
  const YamlNode& b = *root.find("b");
  ASSERT_EQ(b.find("c")->items.size(), 2u);
  EXPECT_EQ(b.find("c")->items[1].text, "y z");
  EXPECT_TRUE(b.find("c")->items[1].quoted);
  EXPECT_FALSE(b.find("c")->items[0].quoted);
  EXPECT_EQ(b.find("c")->place, "run.yaml:4");
  for (const auto& [key, value] : b.find("d")->entries) {
    EXPECT_EQ(value.kind, YamlNode::Kind::kNull) << key;
    EXPECT_EQ(value.place, "run.yaml:5") << key;
  }
  EXPECT_EQ(root.find("z"), nullptr);
}

TEST(Yaml, EntriesKeepTheOrderOfTheFile) {
  const YamlNode root = parse("z: 1\na: 2\nm: {y: 1, x: 2}\n");
  ASSERT_EQ(root.entries.size(), 3u);
  EXPECT_EQ(root.entries[0].key, "z");
  EXPECT_EQ(root.entries[1].key, "a");
  EXPECT_EQ(root.entries[2].value.entries[0].key, "y");
}

TEST(Yaml, AnEmptyTextIsNull) {
  EXPECT_EQ(parse("").kind, YamlNode::Kind::kNull);
  EXPECT_EQ(parse("# nothing\n").kind, YamlNode::Kind::kNull);
  EXPECT_EQ(parse("---\n").kind, YamlNode::Kind::kNull);
}

TEST(Yaml, ADuplicateKeyIsRefusedWithBothPlaces) {
  EXPECT_EQ(refusal("a: 1\nb: 2\n'a': 3\n"),
            "run.yaml:3: the key \"a\" stands twice; the first is at run.yaml:1.");
  EXPECT_THAT(refusal("a: {b: 1, b: 2}"), HasSubstr("\"b\" stands twice"));
  EXPECT_NO_THROW(parse("a: {b: 1}\nc: {b: 1}\n"));
}

TEST(Yaml, AnchorsAliasesMergesAndTagsAreRefused) {
  EXPECT_EQ(refusal("\na: &x 1\n"), "run.yaml:2: anchors (&name) are not supported.");
  EXPECT_THAT(refusal("a: &x {b: 1}"), HasSubstr("anchors"));
  EXPECT_THAT(refusal("a: &x [b]"), HasSubstr("anchors"));
  EXPECT_THAT(refusal("&x a: 1"), HasSubstr("anchors"));
  EXPECT_THAT(refusal("a: &x\nb: 1"), HasSubstr("anchors"));
  EXPECT_THAT(refusal("a: *x"), StartsWith("run.yaml:1: "));
  EXPECT_EQ(refusal("a: 1\n<<: {b: 1}\n"), "run.yaml:2: merge keys (<<) are not supported.");
  EXPECT_THAT(refusal("a: !!str 1"), HasSubstr("tags"));
  EXPECT_THAT(refusal("a: !mine 1"), HasSubstr("tags"));
  EXPECT_THAT(refusal("a: !mine {b: 1}"), HasSubstr("tags"));
  EXPECT_THAT(refusal("a: !mine [1]"), HasSubstr("tags"));
  EXPECT_THAT(refusal("a: !!null\nb: 1\n"), HasSubstr("tags"));
  EXPECT_THAT(refusal("!!str a: 1"), HasSubstr("tags"));
}

TEST(Yaml, AnAliasBombIsRefusedAtItsFirstAnchor) {
  std::string bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c < 'j'; ++c) {
    bomb += std::string(1, c) + ": &" + c + " [";
    for (int i = 0; i < 9; ++i) bomb += std::string("*") + static_cast<char>(c - 1) + ",";
    bomb += "]\n";
  }
  EXPECT_THAT(refusal(bomb), StartsWith("run.yaml:1: anchors"));
}

TEST(Yaml, ASecondDocumentIsRefused) {
  EXPECT_EQ(refusal("a: 1\n---\nb: 2\n"), "run.yaml:3: a second document (---) is not supported.");
  EXPECT_THAT(refusal("a: 1\n---\n"), HasSubstr("second document"));
  EXPECT_NO_THROW(parse("---\na: 1\n...\n"));
}

TEST(Yaml, NumbersThatReadersDisagreeAboutAreRefusedUnlessQuoted) {
  EXPECT_EQ(
      refusal("a: 1\nb: 010\n"),
      "run.yaml:2: \"010\" could be octal or decimal; drop the leading zeros, or quote a text.");
  for (const char* text : {"00", "-07", "+01", "[1, 09]", "{x: 0123}"}) {
    EXPECT_THAT(refusal(std::string("a: ") + text), HasSubstr("could be octal")) << text;
  }
  for (const char* text : {".nan", ".NaN", ".NAN", ".inf", "-.inf", "+.Inf", "[.INF]"}) {
    EXPECT_THAT(refusal(std::string("a: ") + text), HasSubstr("is not a finite number")) << text;
  }
  for (const char* text : {"'010'", "\".inf\"", "0", "0.5", "0a", "-0", "1e01"}) {
    EXPECT_NO_THROW(parse(std::string("a: ") + text)) << text;
  }
}

TEST(Yaml, KeysMustBeNames) {
  EXPECT_THAT(refusal("? [a, b]\n: 1\n"), HasSubstr("expected a name as key"));
  EXPECT_THAT(refusal("? {a: b}\n: 1\n"), HasSubstr("expected a name as key"));
  EXPECT_THAT(refusal("~: 1"), HasSubstr("expected a name as key"));
  EXPECT_THAT(refusal(": 1"), HasSubstr("expected a name as key"));
}

TEST(Yaml, SizeCountAndDepthAreBounded) {
  std::string many = "a: [";
  for (int i = 0; i < 9997; ++i) many += "1,";
  EXPECT_NO_THROW(parse(many + "]"));
  EXPECT_THAT(refusal(many + "1,1]"), HasSubstr("more than 10000 values"));
  EXPECT_NO_THROW(parse(std::string(50, '[') + std::string(50, ']')));
  EXPECT_THAT(refusal(std::string(51, '[') + std::string(51, ']')), HasSubstr("nesting"));
  EXPECT_THAT(refusal(std::string(100000, '[')), StartsWith("run.yaml:1: "));
  EXPECT_THAT(refusal(std::string(100000, '{')), StartsWith("run.yaml:1: "));
  std::string deep;
  for (int i = 0; i < 300; ++i) deep += std::string(static_cast<size_t>(i), ' ') + "a:\n";
  EXPECT_THAT(refusal(deep), HasSubstr("nesting"));
  EXPECT_THAT(refusal("a: 1 #" + std::string(1 << 20, 'x')), HasSubstr("more than the 1048576"));
}

TEST(Yaml, OnlyCleanUtf8IsRead) {
  EXPECT_EQ(parse("a: größe 😀").find("a")->text, "größe 😀");
  EXPECT_EQ(refusal("a: 1\nb: \xff\n"), "run.yaml:2: this is not valid UTF-8.");
  EXPECT_THAT(refusal("a: \xc0\xaf"), HasSubstr("not valid UTF-8"));
  EXPECT_THAT(refusal(std::string_view("a: 1\n\0\0\0b", 10)),
              HasSubstr("run.yaml:2: there is a control"));
  EXPECT_THAT(refusal(std::string_view("a\0:\0 \0001\0", 8)), HasSubstr("control character"));
  EXPECT_THAT(refusal("a: 1\n\x04\nb: 2\n"), HasSubstr("control character (0x04)"));
}

TEST(Yaml, SyntaxErrorsNameTheLine) {
  for (const char* text :
       {"a: 1\nb: [1, 2\nc: 3\n", "a: 1\n b: 2\n", "a: 1\n\tb: 2\n", "a: 'x", "a: }", "a: b: c",
        "[1, 2", "a: 1\n- b\n", "%YAML 9.9\n---\na: 1", "@x"}) {
    EXPECT_THAT(refusal(text), StartsWith("run.yaml:")) << text;
    EXPECT_THAT(refusal(text), Not(HasSubstr("yaml-cpp"))) << text;
  }
}

TEST(Yaml, ReadsFiles) {
  const TemporaryFolder folder;
  write_file(folder.file("a.yaml"), "a: 1\nb: 2\n");
  EXPECT_EQ(read_yaml_file(folder.file("a.yaml")).find("b")->place, folder.file("a.yaml") + ":2");
  EXPECT_THAT(sentence_of(ExitCode::kConfiguration, [&] { read_yaml_file(folder.file("b.yaml")); }),
              HasSubstr("b.yaml' cannot be opened"));
  EXPECT_THAT(sentence_of(ExitCode::kConfiguration, [&] { read_yaml_file(folder.path()); }),
              HasSubstr("cannot be read: Is a directory"));
  write_file(folder.file("large.yaml"), std::string((1 << 20) + 1, '#'));
  EXPECT_THAT(
      sentence_of(ExitCode::kConfiguration, [&] { read_yaml_file(folder.file("large.yaml")); }),
      HasSubstr("larger than"));
}

TEST(Yaml, AValueFromElsewhereKeepsItsOwnPlace) {
  const YamlNode value = parse_yaml_value("[{path: x}, 4K]", "--data.sources");
  EXPECT_EQ(value.items[0].find("path")->place, "--data.sources");
  EXPECT_EQ(value.items[1].text, "4K");
  EXPECT_EQ(parse_yaml_value("", "--x").kind, YamlNode::Kind::kNull);
  EXPECT_EQ(parse_yaml_value("", "--x").place, "--x");
  EXPECT_THAT(sentence_of(ExitCode::kConfiguration, [] { parse_yaml_value("a: }", "--x.y"); }),
              StartsWith("--x.y: this is not valid YAML"));
}

TEST(Yaml, AQuotedTextReadsBackExactly) {
  for (const std::string text :
       {"plain", "runs/demo-1", "/data/x.bin", "",      " ",   "a b",         "a: b", "a #b",
        "#b",    "null",        "Null",        "true",  "no",  "~",           "010",  "1e3",
        "-x",    "- x",         "[a]",         "{a}",   "*",   "!*.router.*", "&a",   "'",
        "\"",    "\\",          "a\\nb",       "größe", "a,b", "@x",          "`x",   "%x",
        "?x",    ".inf",        "...",         "---",   "|",   ">",           "a:"}) {
    const YamlNode node = parse("a: " + quote_yaml(text) + "\n");
    EXPECT_EQ(node.find("a")->kind, YamlNode::Kind::kScalar) << text;
    EXPECT_EQ(node.find("a")->text, text);
    EXPECT_EQ(parse("[" + quote_yaml(text) + ", b]").items[0].text, text);
  }
  EXPECT_EQ(parse("a: " + quote_yaml("x\n\ty")).find("a")->text, "x\n\ty");
  EXPECT_EQ(quote_yaml("runs/demo-1"), "runs/demo-1");
  EXPECT_EQ(quote_yaml("no"), "\"no\"");
}

}  // namespace
}  // namespace swiattn
