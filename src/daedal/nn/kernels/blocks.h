// Blocks of GGUF files, multiplied as the file holds them: how each type is decoded, and the dot product that all share.
//
// A block holds 32 or 256 weights of one row. Whatever its type, 32 weights at a time become unsigned (or signed) bytes q, and
// w = scale * q - min, with a scale and a min for every GROUP of 32 or HALF of 16 weights. Activations are int8 with a scale per 32, so
//   sum w a = scale * (sum q a) - min * (sum a),
// where the sums of a are made once for all rows. Integer sums of a lane are exact; lanes are added in fp32, in one order whatever M is.

constexpr i64 SUPER = 256;

enum Kind : i64 { Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, IQ4_NL = 20, IQ4_XS = 23 };

// weights of a block, its bytes, weights that share a scale, whether q is signed (then there is no min)
template <i64 kind> struct Shape;
template <> struct Shape<Q4_0> { static constexpr i64 size = 32, bytes = 18, group = 32; static constexpr bool sign = false; };
template <> struct Shape<Q4_1> { static constexpr i64 size = 32, bytes = 20, group = 32; static constexpr bool sign = false; };
template <> struct Shape<Q5_0> { static constexpr i64 size = 32, bytes = 22, group = 32; static constexpr bool sign = false; };
template <> struct Shape<Q5_1> { static constexpr i64 size = 32, bytes = 24, group = 32; static constexpr bool sign = false; };
template <> struct Shape<Q8_0> { static constexpr i64 size = 32, bytes = 34, group = 32; static constexpr bool sign = true; };
template <> struct Shape<Q2_K> { static constexpr i64 size = 256, bytes = 84, group = 16; static constexpr bool sign = false; };
template <> struct Shape<Q3_K> { static constexpr i64 size = 256, bytes = 110, group = 16; static constexpr bool sign = false; };
template <> struct Shape<Q4_K> { static constexpr i64 size = 256, bytes = 144, group = 32; static constexpr bool sign = false; };
template <> struct Shape<Q5_K> { static constexpr i64 size = 256, bytes = 176, group = 32; static constexpr bool sign = false; };
template <> struct Shape<Q6_K> { static constexpr i64 size = 256, bytes = 210, group = 16; static constexpr bool sign = false; };
template <> struct Shape<IQ4_NL> { static constexpr i64 size = 32, bytes = 18, group = 32; static constexpr bool sign = true; };
template <> struct Shape<IQ4_XS> { static constexpr i64 size = 256, bytes = 136, group = 32; static constexpr bool sign = true; };

float half(const uint8_t* p) { uint16_t h; memcpy(&h, p, 2); return _cvtsh_ss(h); }
uint32_t word(const uint8_t* p) { uint32_t w; memcpy(&w, p, 4); return w; }
__m256i pair(__m128i low, __m128i high) { return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1); }
__m256i bits(__m256i v, int shift, int mask) { return _mm256_and_si256(_mm256_srli_epi16(v, shift), _mm256_set1_epi8(mask)); }
__m256i bits_up(__m256i v, int shift, int mask) { return _mm256_and_si256(_mm256_slli_epi16(v, shift), _mm256_set1_epi8(mask)); }
__m256 floats8(uint32_t low, uint32_t high) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_set_epi32(0, 0, high, low))); }

__m256i nibbles(const uint8_t* p) {  // 16 bytes -> 32: the low nibbles, then the high ones
    __m128i v = _mm_loadu_si128((const __m128i*)p);
    return _mm256_and_si256(pair(v, _mm_srli_epi16(v, 4)), _mm256_set1_epi8(15));
}
__m256i table(__m256i index) {  // the sixteen levels of IQ4
    const __m128i levels = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(levels), index);
}
__m256i spread(const uint8_t* p) {  // 32 bits -> 16 in the bytes whose bit is set
    __m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32(word(p)), _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
    __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ULL);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(v, bit), bit), _mm256_set1_epi8(16));
}

// Scales and mins of a SUPER of weights, one a group. Of blocks of 32 there may be fewer than 8 left; the others are 0.
template <i64 kind> void scales(const uint8_t* p, int count, float* scale, float* min) {
    using S = Shape<kind>;
    if constexpr (S::size == 32) {
        alignas(16) uint16_t first[8] = {}, second[8] = {};
        for (int i = 0; i < count; i++) {
            memcpy(first + i, p + i * S::bytes, 2);
            if constexpr (kind == Q4_1 || kind == Q5_1) memcpy(second + i, p + i * S::bytes + 2, 2);
        }
        __m256 s = half8(first);
        _mm256_store_ps(scale, s);
        if constexpr (kind == Q4_0 || kind == Q5_0) _mm256_store_ps(min, _mm256_mul_ps(s, _mm256_set1_ps(kind == Q4_0 ? 8 : 16)));
        if constexpr (kind == Q4_1 || kind == Q5_1) _mm256_store_ps(min, _mm256_sub_ps(_mm256_setzero_ps(), half8(second)));
    }
    if constexpr (kind == Q4_K || kind == Q5_K) {  // 6 bits each: the lower four scales and mins whole, the others in parts
        uint32_t a = word(p + 4), b = word(p + 8), c = word(p + 12);
        __m256 s = floats8(a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030));
        __m256 m = floats8(b & 0x3f3f3f3f, (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030));
        _mm256_store_ps(scale, _mm256_mul_ps(s, _mm256_set1_ps(half(p))));
        _mm256_store_ps(min, _mm256_mul_ps(m, _mm256_set1_ps(half(p + 2))));
    }
    if constexpr (S::group == 16) {
        __m128i s, m = _mm_setzero_si128();
        if constexpr (kind == Q6_K) s = _mm_loadu_si128((const __m128i*)(p + 192));
        if constexpr (kind == Q2_K) {
            s = _mm_loadu_si128((const __m128i*)p);
            m = _mm_and_si128(_mm_srli_epi16(s, 4), _mm_set1_epi8(15));
            s = _mm_and_si128(s, _mm_set1_epi8(15));
        }
        if constexpr (kind == Q3_K) {  // 4 bits of eight and eight, then 2 bits of four times four; less 32
            __m128i low = _mm_loadl_epi64((const __m128i*)(p + 96));
            low = _mm_and_si128(_mm_unpacklo_epi64(low, _mm_srli_epi16(low, 4)), _mm_set1_epi8(15));
            __m128i high = _mm_and_si128(_mm_srlv_epi32(_mm_set1_epi32(word(p + 104)), _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
            s = _mm_sub_epi8(_mm_or_si128(low, _mm_slli_epi16(high, 4)), _mm_set1_epi8(32));
        }
        constexpr int at = kind == Q6_K ? 208 : kind == Q3_K ? 108 : 80;
        __m256 d = _mm256_set1_ps(half(p + at)), times = _mm256_set1_ps(kind == Q6_K ? 32 : 4);
        for (int h = 0; h < 2; h++, s = _mm_srli_si128(s, 8), m = _mm_srli_si128(m, 8)) {
            __m256 each = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(s)), d);
            _mm256_store_ps(scale + 8 * h, each);
            if constexpr (kind == Q2_K) each = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(m)), times = _mm256_set1_ps(half(p + 82));
            _mm256_store_ps(min + 8 * h, _mm256_mul_ps(each, times));
        }
    }
    if constexpr (kind == IQ4_XS) {
        __m256i twice = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14), low = _mm256_set1_epi32(word(p + 4)), high = _mm256_set1_epi32(p[2] | p[3] << 8);
        low = _mm256_and_si256(_mm256_srlv_epi32(low, _mm256_slli_epi32(twice, 1)), _mm256_set1_epi32(15));
        high = _mm256_and_si256(_mm256_srlv_epi32(high, twice), _mm256_set1_epi32(3));
        __m256i s = _mm256_sub_epi32(_mm256_or_si256(low, _mm256_slli_epi32(high, 4)), _mm256_set1_epi32(32));
        _mm256_store_ps(scale, _mm256_mul_ps(_mm256_cvtepi32_ps(s), _mm256_set1_ps(half(p))));
    }
}

// Weights 32 g to 32 g + 31 of a block, as bytes
template <i64 kind> __m256i levels(const uint8_t* p, int g) {
    if constexpr (kind == Q4_0) return nibbles(p + 2);
    if constexpr (kind == Q4_1) return nibbles(p + 4);
    if constexpr (kind == Q5_0) return _mm256_or_si256(nibbles(p + 6), spread(p + 2));
    if constexpr (kind == Q5_1) return _mm256_or_si256(nibbles(p + 8), spread(p + 4));
    if constexpr (kind == Q8_0) return load(p + 2);
    if constexpr (kind == IQ4_NL) return table(nibbles(p + 2));
    if constexpr (kind == IQ4_XS) return table(nibbles(p + 8 + 16 * g));
    if constexpr (kind == Q4_K) return bits(load(p + 16 + g / 2 * 32), g % 2 * 4, 15);
    if constexpr (kind == Q5_K) {
        __m256i high = g < 4 ? bits_up(load(p + 16), 4 - g, 16) : bits(load(p + 16), g - 4, 16);
        return _mm256_or_si256(bits(load(p + 48 + g / 2 * 32), g % 2 * 4, 15), high);
    }
    if constexpr (kind == Q6_K) {  // of each 128, quarter j has its low bits in nibble j / 2 of 32 bytes, its high ones at 2 j
        int n = g / 4, j = g % 4;
        __m256i low = bits(load(p + 64 * n + j % 2 * 32), j / 2 * 4, 15), h = load(p + 128 + 32 * n);
        return _mm256_or_si256(low, j == 3 ? bits(h, 2, 48) : bits_up(h, 4 - 2 * j, 48));
    }
    if constexpr (kind == Q2_K) return bits(load(p + 16 + g / 4 * 32), g % 4 * 2, 3);
    if constexpr (kind == Q3_K) {
        __m256i low = bits(load(p + 32 + g / 4 * 32), g % 4 * 2, 3);
        return _mm256_or_si256(low, g < 2 ? bits_up(load(p), 2 - g, 4) : bits(load(p), g - 2, 4));
    }
}

// Up to a SUPER of weights of one row -> fp32
template <i64 kind> void unpack_blocks(const uint8_t* p, int count, float* out) {
    using S = Shape<kind>;
    alignas(32) float scale[16], min[16] = {};
    scales<kind>(p, count, scale, min);
    for (int g = 0; g < count; g++) {
        alignas(32) uint8_t q[32];
        _mm256_store_si256((__m256i*)q, levels<kind>(S::size == 32 ? p + g * S::bytes : p, g));
        for (int i = 0; i < 32; i += 8) {
            __m128i eight = _mm_loadl_epi64((const __m128i*)(q + i));
            __m256 value = _mm256_cvtepi32_ps(S::sign ? _mm256_cvtepi8_epi32(eight) : _mm256_cvtepu8_epi32(eight));
            int at = (32 * g + i) / S::group;
            _mm256_storeu_ps(out + 32 * g + i, _mm256_sub_ps(_mm256_mul_ps(value, _mm256_set1_ps(scale[at])), _mm256_set1_ps(min[at])));
        }
    }
}

// sums of four products of bytes: q of the weights (signed or not), a signed
template <bool sign> __m256i dot8(__m256i q, __m256i a) {
    if constexpr (sign) a = _mm256_sign_epi8(a, q), q = _mm256_abs_epi8(q);
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpbusd_epi32(_mm256_setzero_si256(), q, a);
#else
    return _mm256_madd_epi16(_mm256_maddubs_epi16(q, a), _mm256_set1_epi16(1));  // 2 * 127 * 127 < 2^15
#endif
}

// One output of M activations. An FMA waits for four cycles, so two sums take turns, and the mins have a third.
template <i64 kind, int M> struct Sums {
    __m256 even[M] = {}, odd[M] = {}, low[M] = {};

    // the products of `count` groups of 32 weights; a constant 8 but for a last, short piece
    __attribute__((always_inline)) void add(const uint8_t* p, const Activations& x, i64 at, i64 step, int count) {
        using S = Shape<kind>;
        alignas(32) float scale[16], min[16], factor[M][8];
        scales<kind>(p, count, scale, min);
        for (int m = 0; m < M; m++) {
            i64 here = at + m * step;
            if constexpr (!S::sign) {
                const float* sums = S::group == 32 ? x.sum32 + here : x.sum16 + 2 * here;
                for (int i = 0; i < SUPER / S::group; i += 8) low[m] = _mm256_fmadd_ps(_mm256_load_ps(min + i), _mm256_loadu_ps(sums + i), low[m]);
            }
            if constexpr (S::group == 32) _mm256_store_ps(factor[m], _mm256_mul_ps(_mm256_load_ps(scale), _mm256_loadu_ps(x.scale + here)));
        }
        const __m256i halves = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
#pragma GCC unroll 8
        for (int g = 0; g < count; g++) {
            __m256i q = levels<kind>(S::size == 32 ? p + g * S::bytes : p, g);
            __m256 two;
            if constexpr (S::group == 16) two = _mm256_permutevar8x32_ps(_mm256_castpd_ps(_mm256_broadcast_sd((const double*)(scale + 2 * g))), halves);
#pragma GCC unroll 4
            for (int m = 0; m < M; m++) {
                i64 here = at + m * step + g;
                __m256 s, dot = _mm256_cvtepi32_ps(dot8<S::sign>(q, load(x.int8 + here * 32)));
                if constexpr (S::group == 32) s = _mm256_set1_ps(factor[m][g]);
                else s = _mm256_mul_ps(two, _mm256_set1_ps(x.scale[here]));
                __m256& total = g % 2 ? odd[m] : even[m];
                total = _mm256_fmadd_ps(dot, s, total);
            }
        }
    }
};

template <i64 kind, int M> void dot_block(const Weight& w, const Activations& x, i64 m0, i64 n, i64 stride) {
    using S = Shape<kind>;
    constexpr i64 piece = SUPER / S::size * S::bytes;
    i64 groups = x.k / 32, at = m0 * groups;
    const uint8_t* p = (const uint8_t*)w.data + n * (x.k / S::size * S::bytes);
    Sums<kind, M> sums;
    for (i64 g = 0; g + 8 <= groups; g += 8, p += piece) sums.add(p, x, at + g, groups, 8);
    if (groups % 8) sums.add(p, x, at + groups / 8 * 8, groups, groups % 8);
    for (int m = 0; m < M; m++) {
        float total = sum(_mm256_sub_ps(_mm256_add_ps(sums.even[m], sums.odd[m]), sums.low[m]));
        w.out[(m0 + m) * stride + n] = total + (w.bias ? w.bias[n] : 0);
    }
}

// `f.template operator()<kind>()` for the kind that is known only now
template <class F> void by_kind(i64 kind, F&& f) {
    switch (kind) {
#define CASE(K) case K: f(std::integral_constant<i64, K>()); break;
        CASE(Q4_0) CASE(Q4_1) CASE(Q5_0) CASE(Q5_1) CASE(Q8_0) CASE(Q2_K) CASE(Q3_K) CASE(Q4_K) CASE(Q5_K) CASE(Q6_K) CASE(IQ4_NL) CASE(IQ4_XS)
#undef CASE
    }
}
