// SPDX-License-Identifier: Apache-2.0
#include "harness.h"
#include "kernels/cpu/kernels.h"

namespace thimble::cuda_test {
namespace {

struct KvCase {
    LayoutId layout;
    std::size_t row_bytes;  // of one head
    std::int64_t tokens;
    int heads, head_dim;
};

// Bytes are those of the CPU; nothing between rows is touched.
void check_encoding(const KvCase& c) {
    CAPTURE(static_cast<int>(c.layout));
    CAPTURE(c.tokens);
    CAPTURE(c.head_dim);
    const std::int64_t stride = c.heads * c.head_dim + 5;
    std::vector<float> x = values(static_cast<std::size_t>(c.tokens * stride), 9, 3);
    for (int i = 0; i < c.head_dim && c.tokens > 1; ++i) {
        x[static_cast<std::size_t>(i)] = 0;  // a block of scale 0
        // Ties: with the scale 1, halves and whole numbers.
        x[static_cast<std::size_t>(stride + i)] =
            i % 32 == 0 ? 127.0f : 0.5f * static_cast<float>(i % 32 - 16);
    }
    const std::size_t head_bytes = c.row_bytes + 4;
    const std::size_t token_bytes = static_cast<std::size_t>(c.heads) * head_bytes + 8;
    const std::vector<std::byte> marks(static_cast<std::size_t>(c.tokens) * token_bytes,
                                       std::byte{0x5a});
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> dx(x);
        const Array<std::byte> out(marks);
        cuda::encode_kv({dx.data(), c.tokens, stride, c.heads, c.head_dim, c.layout, out.data(),
                         token_bytes, head_bytes},
                        stream());
        std::vector<float> bytes;
        for (const std::byte b : out.get()) bytes.push_back(static_cast<float>(b));
        return bytes;
    });
    std::vector<std::byte> want = marks;
    for (std::int64_t t = 0; t < c.tokens; ++t) {
        for (int h = 0; h < c.heads; ++h) {
            cpu::portable::kKernelTable.encode_kv_row(
                c.layout, x.data() + t * stride + h * c.head_dim, c.head_dim,
                want.data() + static_cast<std::size_t>(t) * token_bytes +
                    static_cast<std::size_t>(h) * head_bytes);
        }
    }
    REQUIRE(got.size() == want.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
        CAPTURE(i);
        CHECK(got[i] == static_cast<float>(want[i]));
    }
}

}  // namespace

void check_encode_kv() {
    check_encoding({LayoutId::k_f32, 4 * 64, 3, 2, 64});
    check_encoding({LayoutId::k_f16, 2 * 64, 3, 2, 64});
    check_encoding({LayoutId::k_bf16, 2 * 64, 3, 2, 64});
    check_encoding({LayoutId::k_q8_0, 34 * 2, 3, 2, 64});
    check_encoding({LayoutId::k_q8_0, 34 * 4, 1, 1, 128});
    check_encoding({LayoutId::k_q8_0, 34, 0, 1, 32});
    check_encoding({LayoutId::k_f16, 2 * 80, 2, 3, 80});
    check_encoding({LayoutId::k_f32, 4 * 33, 1, 1, 33});
    cuda::EncodeKv problem{};
    problem.head_dim = 48, problem.layout = LayoutId::k_q8_0;
    CHECK_FALSE(cuda::supports_encode_kv(problem));
}

}  // namespace thimble::cuda_test
