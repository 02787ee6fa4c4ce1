// SPDX-License-Identifier: Apache-2.0
#include "io/npy.h"

#include <charconv>
#include <optional>

#include "core/checked.h"

namespace thimble {
namespace {

// The dictionary {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }, keys in any order.
class Dictionary {
  public:
    Dictionary(const Cursor& in, std::string_view text) : in_(in), text_(text) {}

    void parse() {
        expect('{');
        while (!take('}')) {
            const std::string_view key = quoted();
            expect(':');
            if (key == "descr") {
                once(descr.has_value(), key);
                descr = quoted();
            } else if (key == "fortran_order") {
                once(fortran.has_value(), key);
                fortran = word() == "True";
            } else if (key == "shape") {
                once(shape.has_value(), key);
                shape = naturals();
            } else {
                throw fault("has a key other than descr, fortran_order and shape");
            }
            if (!take(',')) {
                expect('}');
                break;
            }
        }
        skip();
        if (at_ != text_.size()) throw fault("goes on after its closing brace");
        if (!descr || !fortran || !shape) throw fault("lacks descr, fortran_order or shape");
    }

    std::optional<std::string_view> descr;
    std::optional<bool> fortran;
    std::optional<std::vector<std::uint64_t>> shape;

  private:
    [[nodiscard]] Error fault(const std::string& what) const {
        return {Exit::kBadData, escaped(in_.name(), 1024), "the array's header " + what};
    }
    void once(bool seen, std::string_view key) const {
        if (seen) throw fault("has '" + std::string(key) + "' twice");
    }
    void skip() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
    }
    bool take(char c) {
        skip();
        if (at_ == text_.size() || text_[at_] != c) return false;
        ++at_;
        return true;
    }
    void expect(char c) {
        if (!take(c))
            throw fault(std::string("has no '") + c + "' at its character " + std::to_string(at_));
    }
    std::string_view quoted() {
        skip();
        const char quote = at_ < text_.size() ? text_[at_] : ' ';
        const std::size_t end =
            quote == '\'' || quote == '"' ? text_.find(quote, at_ + 1) : std::string_view::npos;
        if (end == std::string_view::npos)
            throw fault("has no quoted text at its character " + std::to_string(at_));
        const std::string_view out = text_.substr(at_ + 1, end - at_ - 1);
        at_ = end + 1;
        return out;
    }
    std::string_view word() {
        skip();
        for (const std::string_view known : {"True", "False"}) {
            if (text_.substr(at_).starts_with(known)) {
                at_ += known.size();
                return known;
            }
        }
        throw fault("has neither True nor False for fortran_order");
    }
    std::vector<std::uint64_t> naturals() {
        constexpr std::size_t kMostDims = 32;
        std::vector<std::uint64_t> out;
        expect('(');
        while (!take(')')) {
            std::uint64_t n = 0;
            const char* const end = text_.data() + text_.size();
            skip();
            const auto [stop, error] = std::from_chars(text_.data() + at_, end, n);
            if (error != std::errc{} || out.size() == kMostDims)
                throw fault("has a shape that is no list of natural numbers");
            at_ = static_cast<std::size_t>(stop - text_.data());
            out.push_back(n);
            if (!take(',')) {
                expect(')');
                break;
            }
        }
        return out;
    }

    const Cursor& in_;
    std::string_view text_;
    std::size_t at_ = 0;
};

}  // namespace

NpyHeader parse_npy_header(Cursor& in, std::uint64_t file_bytes) {
    std::string magic(kNpyMagic.size(), '\0');
    in.require(magic.size(), 1, "the magic number");
    in.read_bytes(std::as_writable_bytes(std::span(magic)), "the magic number");
    if (magic != kNpyMagic) throw in.error("not a NumPy array file");
    const auto major = in.read<std::uint8_t>("the version");
    const auto minor = in.read<std::uint8_t>("the version");
    if ((major != 1 && major != 2) || minor != 0) {
        throw in.error("the array file's version is " + std::to_string(major) + "." +
                       std::to_string(minor) + "; 1.0 and 2.0 are known");
    }
    const std::uint64_t length = major == 1 ? in.read<std::uint16_t>("the header's length")
                                            : in.read<std::uint32_t>("the header's length");
    if (length > kNpyMaxHeaderBytes) throw in.error("the array's header is longer than 64 KiB");
    in.require(length, 1, "the header");
    std::string text(static_cast<std::size_t>(length), '\0');
    in.read_bytes(std::as_writable_bytes(std::span(text)), "the header");
    Dictionary dictionary(in, text);
    dictionary.parse();

    const auto refuse = [&](const std::string& what, const char* hint) {
        return Error(Exit::kBadData, escaped(in.name(), 1024), what, hint);
    };
    NpyHeader header;
    if (*dictionary.descr == "<f2") {
        header.type = TensorType::kF16;
    } else if (*dictionary.descr != "<f4") {
        throw refuse(
            "the array's numbers are '" + escaped(*dictionary.descr) + "', not '<f4' or '<f2'",
            "numpy: x.astype('<f4')");
    }
    if (*dictionary.fortran)
        throw refuse("the array is in Fortran order", "numpy: np.ascontiguousarray(x)");
    if (dictionary.shape->size() != 2) {
        throw refuse(
            "the array has " + std::to_string(dictionary.shape->size()) + " dimensions, not two",
            "rows are vectors");
    }
    header.rows = (*dictionary.shape)[0], header.cols = (*dictionary.shape)[1];
    header.data_offset = in.position();
    const auto bytes = tensor_bytes(header.type, *dictionary.shape);
    if (!bytes || *bytes != file_bytes - header.data_offset) {
        throw refuse("holds " + std::to_string(file_bytes - header.data_offset) +
                         " bytes of data, which is not the size of its shape",
                     "");
    }
    return header;
}

std::string npy_header(std::uint64_t rows, std::uint64_t cols) {
    constexpr std::size_t kAlignment = 64, kBefore = 10;
    std::string text = "{'descr': '<f4', 'fortran_order': False, 'shape': (" +
                       std::to_string(rows) + ", " + std::to_string(cols) + "), }";
    while ((kBefore + text.size() + 1) % kAlignment != 0) text += ' ';
    text += '\n';
    std::string out(kNpyMagic);
    out += {'\1', '\0', static_cast<char>(text.size() & 0xff), static_cast<char>(text.size() >> 8)};
    return out + text;
}

}  // namespace thimble
