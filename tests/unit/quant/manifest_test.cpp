// SPDX-License-Identifier: Apache-2.0
#include "quant/manifest.h"

#include <doctest/doctest.h>

#include "core/error.h"

using namespace thimble;

namespace {

const std::string kA(64, 'a'), kB(64, 'b');

Exit exit_of(const std::string& text) {
    try {
        (void)Manifest::parse(text, "m");
        return Exit::kDone;
    } catch (const Error& e) {
        return e.exit();
    }
}

}  // namespace

TEST_CASE("manifest: lines of both kinds, of other sums and empty ones") {
    const Manifest m = Manifest::parse(
        "# made by hand\n"
        "xxh64     f66e9cd66a4396a0  dir/m.gguf:t\n"
        "sha256    " +
            kA +
            "  dir/m.gguf:t\r\n\n"
            "  sha256 " +
            std::string(64, 'B') + "\tdir/m.gguf\n" + kB + " *dir/m.gguf",
        "m");
    REQUIRE(m.entries().size() == 3);
    CHECK(m.find(Summed::kTensor, "elsewhere/m.gguf", "t")->sha256 == kA);
    CHECK(m.find(Summed::kAllTensors, "m.gguf")->sha256 == kB);
    CHECK(m.find(Summed::kFile, "m.gguf")->sha256 == kB);
    CHECK(m.find(Summed::kTensor, "m.gguf", "u") == nullptr);
    CHECK(m.find(Summed::kFile, "renamed.gguf") != nullptr);
}

TEST_CASE("manifest: of several files, each has its own entries") {
    const Manifest m = Manifest::parse(kA + "  a.gguf\n" + kB + "  x/b c.gguf\n", "m");
    CHECK(m.find(Summed::kFile, "y/a.gguf")->sha256 == kA);
    CHECK(m.find(Summed::kFile, "b c.gguf")->sha256 == kB);
    CHECK(m.find(Summed::kFile, "c.gguf") == nullptr);
}

TEST_CASE("manifest: a written line reads back as itself") {
    for (const ManifestEntry& entry : {ManifestEntry{Summed::kFile, "m.gguf", "", kA},
                                       {Summed::kAllTensors, "m.gguf", "", kA},
                                       {Summed::kTensor, "m.gguf", "blk.0.w:x", kB}}) {
        const Manifest m = Manifest::parse(manifest_line(entry), "m");
        REQUIRE(m.entries().size() == 1);
        const ManifestEntry& read = m.entries().front();
        CHECK(read.what == entry.what);
        CHECK(read.file == entry.file);
        CHECK(read.tensor == entry.tensor);
        CHECK(read.sha256 == entry.sha256);
    }
}

TEST_CASE("manifest: what is no manifest is refused") {
    for (const std::string& text :
         {std::string(), std::string("\n# nothing\n"), std::string("sha1 abc m.gguf\n"),
          kA.substr(1) + "  m.gguf", "sha256 " + kA, "sha256 " + kA.substr(1) + " m", kA + "  *",
          "sha256 " + kA + " m:", "sha256 " + kA + " :t", "sha512 " + kA + " m", kA + kA + " m"}) {
        CAPTURE(text);
        CHECK(exit_of(text) == Exit::kBadData);
    }
    CHECK_THROWS_AS((void)parse_sha256("xyz", "--sha256"), Error);
    CHECK(parse_sha256(std::string(64, 'F'), "--sha256") == std::string(64, 'f'));
}
