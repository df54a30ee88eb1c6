// CPU kernels for decoding: linear layers with packed weights, attention of one query over a KV cache, and the small layers
// between them. AVX2 + FMA + F16C; VNNI where the compiler is told that the CPU has it. Plain C ABI, no torch headers.
//
// Every kernel is `void kernel(const Args&, Team&, int thread)`: it does its share of the work and returns. `run` executes a list
// of them inside one parallel region with a barrier after each, so a whole decode step of a network is one call.
//
// Legend: M rows of activations, N outputs, K inputs, fp32 activations in and out, accumulation in int32 and fp32.
//
// Numbers. A decode step reads every weight once, so it is bound by memory; the arithmetic only has to keep up (about 4 cycles per
// 32 bytes and core here). Hence the choices:
//   int8: (N, K) row by row, one fp32 scale a row; activations become int16 with a scale per 512 (error 2^-16: as good as exact),
//         vpmaddwd gives 16 products an instruction without the saturation of 8-bit vpmaddubsw. Sums of 512 are exact integers and are
//         added in order, whichever loop does it: a row's result does not depend on how many rows come with it.
//   blocks: those of GGUF files, see blocks.h; activations become int8 with a scale per 32.
//   bf16: (N, K) row by row; a bf16 is the upper half of an fp32, so widening is a shift or a mask.

#include <immintrin.h>
#include <omp.h>
#include <sched.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#ifndef __AVX2__
#error "these kernels need AVX2"
#endif

namespace {

using i64 = int64_t;
constexpr i64 BLOCK8 = 512;   // inputs that share an int8 activation scale: 512 x 127 x 32767 still fits int32
constexpr i64 PIECES = 8;   // of a thread's share of a layer
constexpr int MOST = 128;   // threads
constexpr i64 GROUP = 32;   // inputs that share an activation scale of a product with blocks

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
i64 round_up(i64 a, i64 b) { return ceil_div(a, b) * b; }

struct Range { i64 begin, end; };

// The threads of one call. OpenMP's own barrier spins for milliseconds, which is ruinous when another process has one of the cores;
// this one soon yields. Work that takes long is handed out in pieces, so that a thread that lost its core for a while holds up less.
struct Team {
    std::atomic<int> threads{1};
    std::atomic<int> arrived{0}, round{0};
    struct alignas(64) Counter { std::atomic<i64> taken{0}; } counters[MOST];
    std::atomic<char*> shared{nullptr};  // a buffer of thread 0 that all see

    Range share(i64 total, int thread) const { return {total * thread / threads, total * (thread + 1) / threads}; }
    // The next piece of this thread's own share, in order (memory is read in one straight line), then of the others' shares.
    Range take(i64 total, i64 piece, int thread) {
        for (int i = 0; i < threads; i++) {
            int owner = (thread + i) % threads;
            Range all = share(total, owner);
            i64 begin = all.begin + counters[owner].taken.fetch_add(piece, std::memory_order_relaxed);
            if (begin < all.end) return {begin, begin + piece < all.end ? begin + piece : all.end};
        }
        return {0, 0};
    }
    // `ahead` is memory that this thread is likely to read next: fetched into cache while it has nothing else to do
    void barrier(Range ahead = {0, 0}) {
        int now = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            arrived.store(0, std::memory_order_relaxed);
            for (int i = 0; i < threads; i++) counters[i].taken.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
            return;
        }
        for (int i = 0; round.load(std::memory_order_acquire) == now; i++) {
            if (ahead.begin < ahead.end) _mm_prefetch((const char*)ahead.begin, _MM_HINT_T1), ahead.begin += 64;
            else i < 1000 ? _mm_pause() : (void)sched_yield();
        }
    }
};

// ---- vector helpers ------------------------------------------------------------------------------------------------------

float sum(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

int sum(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

__m256i load(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
__m256i widen8(const int8_t* p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)); }
__m256 half8(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
__m256 bf16_8(const uint16_t* p) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16)); }

// acc + pairs of int16 products
__m256i dot16(__m256i acc, __m256i a, __m256i b) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpwssd_epi32(acc, a, b);
#elif defined(__AVXVNNI__)
    return _mm256_dpwssd_avx_epi32(acc, a, b);
#else
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
#endif
}

// The same in place, for operands that are used again: left alone, GCC folds their loads into every use and copies every sum.
void dot16_in_place(__m256i& acc, __m256i a, __m256i b) {
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
    acc = dot16(acc, a, b);
#else
    __m256i products;
    asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(products) : "x"(a), "x"(b));
#endif
}

// exp(x), relative error 2e-7: 2^n times a polynomial on [-ln2/2, ln2/2]
__m256 exp8(__m256 x) {
    x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.3f)), _mm256_set1_ps(88.3f));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x));
    __m256 p = _mm256_set1_ps(1.0f / 5040);
    for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));
}

// A buffer per thread that only grows.
template <int slot> char* scratch(size_t bytes) {
    static thread_local std::vector<char> buffer;
    if (buffer.size() < bytes + 64) buffer.resize(bytes + 64);
    return (char*)round_up((i64)buffer.data(), 64);
}

// ---- quantising activations ----------------------------------------------------------------------------------------------

// max |x| over n (a multiple of 8, zero padded); compared as integers so that NaN and infinity come through
float max_abs(const float* x, i64 n) {
    __m256i top = _mm256_setzero_si256();
    for (i64 i = 0; i < n; i += 8) top = _mm256_max_epi32(top, _mm256_and_si256(load(x + i), _mm256_set1_epi32(0x7fffffff)));
    alignas(32) int lanes[8];
    _mm256_store_si256((__m256i*)lanes, top);
    int best = 0;
    for (int lane : lanes) best = lane > best ? lane : best;
    float out;
    memcpy(&out, &best, 4);
    return out;
}

// x[n] -> int16 in [-limit, limit]; returns the scale
float quantise16(const float* x, i64 n, float limit, int16_t* out) {
    float top = max_abs(x, n);
    __m256 by = _mm256_set1_ps(top > 0 ? limit / top : 0);
    for (i64 i = 0; i < n; i += 16) {
        __m256i lo = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), by));
        __m256i hi = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), by));
        _mm256_storeu_si256((__m256i*)(out + i), _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xd8));
    }
    return top / limit;
}

// x[K] -> int8 with a scale per GROUP, and the sums of what these stand for, of each GROUP and of its halves
void quantise8(const float* x, i64 k, int8_t* out, float* scale, float* sum32, float* sum16) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (i64 g = 0; g < k; g += GROUP, x += GROUP, out += GROUP) {
        float top = max_abs(x, GROUP), inverse = top > 0 ? 127 / top : 0;
        *scale = top / 127;
        __m256i q[4];
        for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), _mm256_set1_ps(inverse)));
        int low = sum(_mm256_add_epi32(q[0], q[1])), high = sum(_mm256_add_epi32(q[2], q[3]));
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        _mm256_storeu_si256((__m256i*)out, _mm256_permutevar8x32_epi32(bytes, order));
        *sum16++ = low * *scale, *sum16++ = high * *scale, *sum32++ = (low + high) * *scale;
        scale++;
    }
}

// ---- linear: out[m][n] = sum_k x[m][k] * w[n][k] + bias[n], up to three weights on one input ---------------------------------

// kind: 8, 16 and 32 are our own layouts of so many bits, FILE_BLOCKS + a type number the blocks of a GGUF file
struct Weight { const void* data; const void* scale; const float* bias; float* out; i64 n, kind; };
// k is a multiple of 32, stride that of x's rows; all weights want their activations in the same form
struct Linear { const float* x; i64 m, k, stride, count; Weight weights[3]; };
constexpr i64 FILE_BLOCKS = 64;

// Row m of the activations as int16, with a scale for every `block` inputs: out (m, k), scale (blocks, m)
void quantise_blocks(const Linear& a, i64 m, i64 block, float limit, int16_t* out, float* scale) {
    for (i64 k0 = 0, b = 0; k0 < a.k; k0 += block, b++)
        scale[b * a.m + m] = quantise16(a.x + m * a.stride + k0, a.k - k0 < block ? a.k - k0 : block, limit, out + m * a.k + k0);
}

struct Activations {  // of one call, in the form that its weights want
    i64 m, k;
    const float* fp32;  // m x k (bf16: even and odd inputs of each 16 apart)
    int16_t* int16; int8_t* int8; float *scale, *sum32, *sum16;
};

Activations prepare(const Linear& a) {
    Activations x{a.m, a.k, a.x, nullptr, nullptr, nullptr, nullptr, nullptr};
    i64 groups = a.k / GROUP, kind = a.weights[0].kind;
    if (kind == 8) {
        x.int16 = (int16_t*)scratch<0>(a.m * a.k * 2);
        x.scale = (float*)scratch<1>(a.m * ceil_div(a.k, BLOCK8) * 4);
        for (i64 m = 0; m < a.m; m++) quantise_blocks(a, m, BLOCK8, 32767, x.int16, x.scale);
    } else if (kind > FILE_BLOCKS) {
        x.int8 = (int8_t*)scratch<0>(a.m * a.k);
        x.scale = (float*)scratch<1>(a.m * groups * 4);
        x.sum32 = (float*)scratch<2>(a.m * groups * 3 * 4);
        x.sum16 = x.sum32 + a.m * groups;
        for (i64 m = 0; m < a.m; m++)
            quantise8(a.x + m * a.stride, a.k, x.int8 + m * a.k, x.scale + m * groups, x.sum32 + m * groups, x.sum16 + 2 * m * groups);
    } else {
        float* to = (float*)scratch<0>(a.m * a.k * 4);
        x.fp32 = to;
        for (i64 m = 0; m < a.m; m++)
            for (i64 i = 0; i < a.k; i += 16, to += 16) {
                __m256 lo = _mm256_loadu_ps(a.x + m * a.stride + i), hi = _mm256_loadu_ps(a.x + m * a.stride + i + 8);
                if (kind == 16) {
                    __m256 even = _mm256_shuffle_ps(lo, hi, 0x88), odd = _mm256_shuffle_ps(lo, hi, 0xdd);
                    lo = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(even), 0xd8));
                    hi = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(odd), 0xd8));
                }
                _mm256_storeu_ps(to, lo);
                _mm256_storeu_ps(to + 8, hi);
            }
    }
    return x;
}


// N outputs of M activations. For one activation N is 1: memory is read in one straight line, which is what prefetchers follow. For many,
// every load serves several products. Whatever M and N, an output is the same sum in the same order: a row does not depend on its batch.
template <int M, int N> void dot_int8(const Weight& w, const Activations& x, i64 m0, i64 n, i64 stride) {
    const int8_t* data = (const int8_t*)w.data + n * x.k;
    const float *w_scale = (const float*)w.scale + n, *x_scale = x.scale + m0;
    float out[M][N];
    for (int m = 0; m < M; m++) for (int j = 0; j < N; j++) out[m][j] = w.bias ? w.bias[n + j] : 0;
    for (i64 k0 = 0; k0 < x.k; k0 += BLOCK8, x_scale += x.m) {
        __m256i acc[M][N] = {};
        for (i64 i = k0, stop = k0 + BLOCK8 < x.k ? k0 + BLOCK8 : x.k; i < stop; i += 16) {
            __m256i weights[N];
            for (int j = 0; j < N; j++) weights[j] = widen8(data + j * x.k + i);
            // hardware follows one line of memory, not the two of a pair of outputs: the pair after the next is asked for by hand
            if constexpr (N > 1) for (int j = 0; j < N; j++) _mm_prefetch((const char*)(data + (2 * N + j) * x.k + i), _MM_HINT_T0);
            for (int m = 0; m < M; m++) {
                __m256i a = load(x.int16 + (m0 + m) * x.k + i);
                for (int j = 0; j < N; j++) {
                    if constexpr (N == 1) acc[m][j] = dot16(acc[m][j], weights[j], a);
                    else dot16_in_place(acc[m][j], weights[j], a);
                }
            }
        }
        for (int m = 0; m < M; m++) for (int j = 0; j < N; j++) out[m][j] = std::fma((float)sum(acc[m][j]), x_scale[m] * w_scale[j], out[m][j]);
    }
    for (int m = 0; m < M; m++) for (int j = 0; j < N; j++) w.out[(m0 + m) * stride + n + j] = out[m][j];
}

// Eight weights of bf16 (the even or odd ones of sixteen) or fp32, the v-th of each 32
__m256 weights8(const float* p, int v) { return _mm256_loadu_ps(p + 8 * v); }
__m256 weights8(const uint16_t* p, int v) {
    __m256i pair = load(p + 16 * (v / 2));
    return _mm256_castsi256_ps(v % 2 ? _mm256_and_si256(pair, _mm256_set1_epi32(0xffff0000)) : _mm256_slli_epi32(pair, 16));
}

// bf16 and fp32: four sums of every fourth eight inputs, V of them in one pass over the inputs (V 4 hides an FMA's latency, less leaves
// registers for M x N outputs).
template <class T, int M, int N> void dot_float(const Weight& w, const Activations& x, i64 m0, i64 n, i64 stride) {
    constexpr int V = M * N == 1 ? 4 : 2;
    const T* data = (const T*)w.data + n * x.k;
    __m256 part[4 / V][M][N];
    for (int pass = 0; pass < 4 / V; pass++) {
        __m256 acc[M][N][V] = {};
        for (i64 i = 0; i < x.k; i += 32)
            for (int v = 0; v < V; v++) {
                int at = pass * V + v;
                __m256 weights[N];
                for (int j = 0; j < N; j++) weights[j] = weights8(data + j * x.k + i, at);
                for (int m = 0; m < M; m++) {
                    __m256 a = _mm256_loadu_ps(x.fp32 + (m0 + m) * x.k + i + 8 * at);
                    for (int j = 0; j < N; j++) acc[m][j][v] = _mm256_fmadd_ps(weights[j], a, acc[m][j][v]);
                }
            }
        for (int m = 0; m < M; m++)
            for (int j = 0; j < N; j++) {
                part[pass][m][j] = _mm256_add_ps(acc[m][j][0], acc[m][j][1]);
                if constexpr (V == 4) part[pass][m][j] = _mm256_add_ps(part[pass][m][j], _mm256_add_ps(acc[m][j][2], acc[m][j][3]));
            }
    }
    for (int m = 0; m < M; m++)
        for (int j = 0; j < N; j++) {
            __m256 total = V == 4 ? part[0][m][j] : _mm256_add_ps(part[0][m][j], part[4 / V - 1][m][j]);
            w.out[(m0 + m) * stride + n + j] = sum(total) + (w.bias ? w.bias[n + j] : 0);
        }
}

#include "blocks.h"

template <int M, int N> void dot(const Weight& w, const Activations& x, i64 m, i64 n) {
    if (w.kind == 8) dot_int8<M, N>(w, x, m, n, w.n);
    else if (w.kind == 16) dot_float<uint16_t, M, N>(w, x, m, n, w.n);
    else dot_float<float, M, N>(w, x, m, n, w.n);
}

template <int M> void outputs(const Weight& w, const Activations& x, i64 m, i64 n, i64 stop) {
    if (w.kind > FILE_BLOCKS) return by_kind(w.kind - FILE_BLOCKS, [&](auto kind) { for (; n < stop; n++) dot_block<kind.value, M>(w, x, m, n, w.n); });
    if constexpr (M > 1) for (; n + 2 <= stop; n += 2) dot<M, 2>(w, x, m, n);
    for (; n < stop; n++) dot<M, 1>(w, x, m, n);
}

// ---- linear of many rows: a matrix product in int16 ------------------------------------------------------------------------------

// Int8 and bf16 weights become int16 panels, block by block; vpmaddwd does 16 products an instruction where fp32 does 8. Activations
// and bf16 weights have a scale per row and block of inputs, and ranges are chosen so that a block's products fit int32: int8 as in
// dot_int8 (and to the same bits), bf16 256 x 1023 x 8200 (rounds as finely as bf16 itself does).
constexpr i64 WIDE = 24, WIDE_BLOCKS = 6;  // rows from which it pays to unpack weights; blocks of files
constexpr i64 BLOCK16 = 256, COLUMNS = 16, PANELS = 4, ROWS = 6;

void transpose8(__m256i* v) {  // 8 x 8 int32
    __m256i t[8], u[8];
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            u[4 * i + 2 * j] = _mm256_unpacklo_epi64(t[4 * i + j], t[4 * i + 2 + j]);
            u[4 * i + 2 * j + 1] = _mm256_unpackhi_epi64(t[4 * i + j], t[4 * i + 2 + j]);
        }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
        v[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
    }
}

__m256i row_int16(const int8_t* p, float) { return widen8(p); }
__m256i row_int16(const uint16_t* p, float by) {
    __m256i lo = _mm256_cvtps_epi32(_mm256_mul_ps(bf16_8(p), _mm256_set1_ps(by)));
    __m256i hi = _mm256_cvtps_epi32(_mm256_mul_ps(bf16_8(p + 8), _mm256_set1_ps(by)));
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xd8);
}

float block_scale(const Weight& w, const int8_t*, i64 n, i64) { return ((const float*)w.scale)[n]; }
float block_scale(const Weight&, const uint16_t* p, i64, i64 size) {
    __m256 top = _mm256_setzero_ps();
    for (i64 i = 0; i < size; i += 8) top = _mm256_max_ps(top, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), bf16_8(p + i)));
    float lanes[8], best = 0;
    _mm256_storeu_ps(lanes, top);
    for (float lane : lanes) best = lane > best ? lane : best;
    return best / 1023;
}

// Eight rows from n, `size` inputs from k0 -> panel[pair of inputs][COLUMNS], the half of its columns that `panel` points at
template <class T> void pack_rows(const Weight& w, i64 k, i64 n, i64 k0, i64 size, int* panel, float* scale) {
    const T* from[8];
    float by[8];
    for (int r = 0; r < 8; r++) {
        i64 row = n + r < w.n ? n + r : w.n - 1;
        from[r] = (const T*)w.data + row * k + k0;
        scale[r] = block_scale(w, from[r], row, size);
        by[r] = scale[r] > 0 ? 1 / scale[r] : 0;
    }
    for (i64 i = 0; i < size; i += 16) {
        __m256i v[8];
        for (int r = 0; r < 8; r++) v[r] = row_int16(from[r] + i, by[r]);
        transpose8(v);
        for (int p = 0; p < 8; p++) _mm256_storeu_si256((__m256i*)(panel + (i / 2 + p) * COLUMNS), v[p]);
    }
}

// R rows of activations (row stride k) times one panel, added to out (row stride n), `width` columns of it
template <int R> void tile(const int16_t* x, i64 k, const int* panel, i64 size, const float* x_scale, const float* w_scale, float* out, i64 n, i64 width, const float* bias, bool fresh) {
    __m256i acc[R][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    for (i64 p = 0; p < size / 2; p++) {
        __m256i left = load(panel + p * COLUMNS), right = load(panel + p * COLUMNS + 8);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            int pair;
            memcpy(&pair, x + r * k + 2 * p, 4);
            __m256i a = _mm256_set1_epi32(pair);
            dot16_in_place(acc[r][0], left, a);
            dot16_in_place(acc[r][1], right, a);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        float last[16] = {}, *to = width == 16 ? out + r * n : last;
        if (width < 16 && !fresh) memcpy(last, out + r * n, width * 4);
        if (width < 16 && fresh && bias) memcpy(last, bias, width * 4);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            __m256 scale = _mm256_mul_ps(_mm256_set1_ps(x_scale[r]), _mm256_loadu_ps(w_scale + 8 * h));
            __m256 before = !fresh || width < 16 ? _mm256_loadu_ps(to + 8 * h) : bias ? _mm256_loadu_ps(bias + 8 * h) : _mm256_setzero_ps();
            _mm256_storeu_ps(to + 8 * h, _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[r][h]), scale, before));
        }
        if (width < 16) memcpy(out + r * n, last, width * 4);
    }
}

// `f(weight, first of PANELS * COLUMNS outputs)` for what this thread is to do of all weights
template <class F> void share_columns(const Linear& a, Team& team, int thread, F&& f) {
    i64 starts[4] = {};
    for (i64 i = 0; i < 3; i++) starts[i + 1] = starts[i] + (i < a.count ? ceil_div(a.weights[i].n, PANELS * COLUMNS) : 0);
    for (Range mine = team.take(starts[3], 1, thread); mine.begin < mine.end; mine = team.take(starts[3], 1, thread)) {
        int i = (mine.begin >= starts[1]) + (mine.begin >= starts[2]);
        f(a.weights[i], (mine.begin - starts[i]) * PANELS * COLUMNS);
    }
}

#include "wide_blocks.h"

void wide_block(const Linear& a, const Weight& w, const int16_t* x, const float* x_scale, i64 n0) {
    const i64 block = w.kind == 8 ? BLOCK8 : BLOCK16;
    int* panels = (int*)scratch<3>(PANELS * COLUMNS * block * 2);
    float w_scale[PANELS * COLUMNS];
    for (i64 k0 = 0; k0 < a.k; k0 += block, x_scale += a.m) {
        i64 size = a.k - k0 < block ? a.k - k0 : block, stop = n0 + PANELS * COLUMNS < w.n ? n0 + PANELS * COLUMNS : w.n;
        for (i64 n = n0; n < stop; n += 8) {
            int* panel = panels + (n - n0) / COLUMNS * COLUMNS * block / 2 + (n - n0) % COLUMNS;
            (w.kind == 8 ? pack_rows<int8_t> : pack_rows<uint16_t>)(w, a.k, n, k0, size, panel, w_scale + n - n0);
        }
        constexpr decltype(&tile<1>) calls[] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};
        for (i64 m = 0; m < a.m; m += ROWS)
            for (i64 n = n0; n < stop; n += COLUMNS) {
                auto call = calls[a.m - m < ROWS ? a.m - m : ROWS];
                i64 width = stop - n < COLUMNS ? stop - n : COLUMNS;
                call(x + m * a.k + k0, a.k, panels + (n - n0) * block / 2, size, x_scale + m, w_scale + n - n0, w.out + m * w.n + n, w.n, width, w.bias ? w.bias + n : nullptr, k0 == 0);
            }
    }
}

void wide(const Linear& a, Team& team, int thread) {
    if (a.weights[0].kind > FILE_BLOCKS) return wide_of_blocks(a, team, thread);
    const i64 block = a.weights[0].kind == 8 ? BLOCK8 : BLOCK16;
    i64 blocks = ceil_div(a.k, block), cells = round_up(a.m * a.k, 32);
    if (thread == 0) team.shared = scratch<0>(cells * 2 + blocks * a.m * 4);
    team.barrier();
    int16_t* x = (int16_t*)team.shared.load();
    float* x_scale = (float*)(x + cells);  // (blocks, m)
    float limit = a.weights[0].kind == 8 ? 32767 : 8200;
    Range mine = team.share(a.m, thread);
    for (i64 m = mine.begin; m < mine.end; m++) quantise_blocks(a, m, block, limit, x, x_scale);
    team.barrier();
    share_columns(a, team, thread, [&](const Weight& w, i64 n) { wide_block(a, w, x, x_scale, n); });
}

void linear(const Linear& a, Team& team, int thread) {
    i64 kind = a.weights[0].kind;
    if (kind != 32 && a.m >= (kind > FILE_BLOCKS ? WIDE_BLOCKS : WIDE)) return wide(a, team, thread);
    Activations x = prepare(a);
    i64 blocks[4] = {};  // of 8 outputs, whose weights stay in cache for all activations: where each weight's begin
    for (i64 i = 0; i < 3; i++) blocks[i + 1] = blocks[i] + (i < a.count ? ceil_div(a.weights[i].n, 8) : 0);
    i64 piece = ceil_div(blocks[3], team.threads * PIECES);
    for (Range mine = team.take(blocks[3], piece, thread); mine.begin < mine.end; mine = team.take(blocks[3], piece, thread))
        for (i64 block = mine.begin; block < mine.end; block++) {
            int i = (block >= blocks[1]) + (block >= blocks[2]);
            const Weight& w = a.weights[i];
            i64 n = (block - blocks[i]) * 8, stop = n + 8 < w.n ? n + 8 : w.n;
            for (i64 m = 0, left; (left = a.m - m) > 0;) {
                if (left >= 4 && (w.kind == 8 || w.kind > FILE_BLOCKS)) outputs<4>(w, x, m, n, stop), m += 4;
                else if (left >= 3) outputs<3>(w, x, m, n, stop), m += 3;
                else if (left >= 2) outputs<2>(w, x, m, n, stop), m += 2;
                else outputs<1>(w, x, m, n, stop), m += 1;
            }
        }
}

// ---- attention of one query a sequence over its cache slot -------------------------------------------------------------------

// q (B, H, K), k and v (B, Hkv, K) -> out (B, H, K). Row b writes its key and value at positions[b] of slot slots[b] and attends to
// what is there up to that position. keys, values: (slots, Hkv, max_len, K), fp32 or bf16. window 0: all keys. softcap 0: none.
struct Attend {
    const float *q, *k, *v; void *keys, *values; const i64 *slots, *positions; float* out;
    i64 batch, heads, kv_heads, dim, max_len, bf16, window; double scale, softcap;
};

__m256 load8(const float* p) { return _mm256_loadu_ps(p); }
__m256 load8(const uint16_t* p) { return bf16_8(p); }
void store(float* p, const float* x, i64 n) { memcpy(p, x, n * 4); }
void store(uint16_t* p, const float* x, i64 n) {  // round to nearest even
    for (i64 i = 0; i < n; i++) { uint32_t bits; memcpy(&bits, x + i, 4); p[i] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16; }
}

// sums of eight vectors, in order
__m256 sums(const __m256* v) {
    __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

template <class T> void scores(const float* q, const T* keys, i64 begin, i64 end, i64 dim, float* out) {
    for (i64 j = begin; j < end; j += 8) {  // may run past `end`: those scores are overwritten or ignored, the rows exist or are clamped
        __m256 acc[8];
        for (int r = 0; r < 8; r++) {
            const T* key = keys + (j + r < end ? j + r : end - 1) * dim;
            acc[r] = _mm256_setzero_ps();
            for (i64 d = 0; d < dim; d += 8) acc[r] = _mm256_fmadd_ps(_mm256_loadu_ps(q + d), load8(key + d), acc[r]);
        }
        _mm256_storeu_ps(out + j - begin, sums(acc));
    }
}

// scores -> probabilities in place; n is padded with -inf to a multiple of 8
void softmax(float* s, i64 n, float scale, float softcap) {
    for (i64 i = 0; i < n; i++) s[i] = softcap ? softcap * std::tanh(s[i] * scale / softcap) : s[i] * scale;
    for (i64 i = n; i < round_up(n, 8); i++) s[i] = -INFINITY;
    n = round_up(n, 8);
    float top = -INFINITY;
    for (i64 i = 0; i < n; i++) top = s[i] > top ? s[i] : top;
    __m256 total = _mm256_setzero_ps();
    for (i64 i = 0; i < n; i += 8) {
        __m256 e = exp8(_mm256_sub_ps(_mm256_loadu_ps(s + i), _mm256_set1_ps(top)));
        total = _mm256_add_ps(total, e);
        _mm256_storeu_ps(s + i, e);
    }
    __m256 inverse = _mm256_set1_ps(1 / sum(total));
    for (i64 i = 0; i < n; i += 8) _mm256_storeu_ps(s + i, _mm256_mul_ps(_mm256_loadu_ps(s + i), inverse));
}

template <int V, class T> void mix(const float* p, const T* values, i64 begin, i64 end, i64 dim, float* out) {  // out[8V] += p . values
    __m256 acc[V];
    for (int d = 0; d < V; d++) acc[d] = _mm256_loadu_ps(out + 8 * d);
    for (i64 j = begin; j < end; j++) {
        __m256 weight = _mm256_set1_ps(p[j - begin]);
        for (int d = 0; d < V; d++) acc[d] = _mm256_fmadd_ps(weight, load8(values + j * dim + 8 * d), acc[d]);
    }
    for (int d = 0; d < V; d++) _mm256_storeu_ps(out + 8 * d, acc[d]);
}

template <class T> void attend_head(const Attend& a, i64 b, i64 head) {
    i64 group = a.heads / a.kv_heads, at = a.positions[b], end = at + 1, begin = a.window && end > a.window ? end - a.window : 0;
    T* keys = (T*)a.keys + (a.slots[b] * a.kv_heads + head) * a.max_len * a.dim;
    T* values = (T*)a.values + (a.slots[b] * a.kv_heads + head) * a.max_len * a.dim;
    store(keys + at * a.dim, a.k + (b * a.kv_heads + head) * a.dim, a.dim);
    store(values + at * a.dim, a.v + (b * a.kv_heads + head) * a.dim, a.dim);
    i64 room = round_up(end - begin, 8);
    float* p = (float*)scratch<3>(group * room * 4);
    const float* q = a.q + (b * a.heads + head * group) * a.dim;
    float* out = a.out + (b * a.heads + head * group) * a.dim;
    for (i64 g = 0; g < group; g++) {
        scores(q + g * a.dim, keys, begin, end, a.dim, p + g * room);
        softmax(p + g * room, end - begin, a.scale, a.softcap);
    }
    memset(out, 0, group * a.dim * 4);
    for (i64 j = begin; j < end; j += 64)  // 64 values stay in L1 for all queries of the group
        for (i64 g = 0; g < group; g++) {
            i64 stop = j + 64 < end ? j + 64 : end, d = 0;
            for (; d + 64 <= a.dim; d += 64) mix<8>(p + g * room + j - begin, values + d, j, stop, a.dim, out + g * a.dim + d);
            for (; d < a.dim; d += 8) mix<1>(p + g * room + j - begin, values + d, j, stop, a.dim, out + g * a.dim + d);
        }
}

void attend(const Attend& a, Team& team, int thread) {
    Range mine = team.share(a.batch * a.kv_heads, thread);
    for (i64 i = mine.begin; i < mine.end; i++)
        a.bf16 ? attend_head<uint16_t>(a, i / a.kv_heads, i % a.kv_heads) : attend_head<float>(a, i / a.kv_heads, i % a.kv_heads);
}

// ---- small layers ------------------------------------------------------------------------------------------------------------

struct RmsNorm { const float *x, *weight; float* out; i64 rows, dim; double eps, offset; };

void rms_norm(const RmsNorm& a, Team& team, int thread) {
    Range mine = team.share(a.rows, thread);
    for (i64 row = mine.begin; row < mine.end; row++) {
        const float* x = a.x + row * a.dim;
        float* out = a.out + row * a.dim;
        __m256 squares = _mm256_setzero_ps();
        i64 i = 0;
        for (; i + 8 <= a.dim; i += 8) squares = _mm256_fmadd_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(x + i), squares);
        float total = sum(squares);
        for (; i < a.dim; i++) total += x[i] * x[i];
        float inverse = 1 / std::sqrt(total / a.dim + (float)a.eps), offset = a.offset;
        for (i = 0; i < a.dim; i++) out[i] = x[i] * inverse * (a.weight[i] + offset);
    }
}

struct Binary { const float *a, *b; float* out; i64 n; };

void add(const Binary& a, Team& team, int thread) {
    Range mine = team.share(a.n, thread);
    for (i64 i = mine.begin; i < mine.end; i++) a.out[i] = a.a[i] + a.b[i];
}

void mul(const Binary& a, Team& team, int thread) {
    Range mine = team.share(a.n, thread);
    for (i64 i = mine.begin; i < mine.end; i++) a.out[i] = a.a[i] * a.b[i];
}

struct Act { const float* x; float* out; i64 n, gelu; };

// silu: x * sigmoid(x). gelu's tanh form is x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)).
__m256 act8(__m256 x, bool gelu) {
    __m256 t = x;
    if (gelu) t = _mm256_mul_ps(_mm256_mul_ps(x, _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(0.044715f), _mm256_set1_ps(1))), _mm256_set1_ps(1.5957691216f));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1), exp8(_mm256_sub_ps(_mm256_setzero_ps(), t))));
}

void act(const Act& a, Team& team, int thread) {
    Range mine = team.share(ceil_div(a.n, 8), thread);
    for (i64 i = mine.begin * 8; i < mine.end * 8; i += 8) {
        if (i + 8 <= a.n) { _mm256_storeu_ps(a.out + i, act8(_mm256_loadu_ps(a.x + i), a.gelu)); continue; }
        float last[8] = {};
        memcpy(last, a.x + i, (a.n - i) * 4);
        _mm256_storeu_ps(last, act8(_mm256_loadu_ps(last), a.gelu));
        memcpy(a.out + i, last, (a.n - i) * 4);
    }
}

// Rotates channels (i, i + half) of the first 2 * half of x (tokens, heads, dim); cos and sin are (tokens, half).
struct Rope { const float *x, *cos, *sin; float* out; i64 tokens, heads, dim, half; };

void rope(const Rope& a, Team& team, int thread) {
    Range mine = team.share(a.tokens * a.heads, thread);
    for (i64 row = mine.begin; row < mine.end; row++) {
        const float *x = a.x + row * a.dim, *cos = a.cos + row / a.heads * a.half, *sin = a.sin + row / a.heads * a.half;
        float* out = a.out + row * a.dim;
        for (i64 i = 0; i < a.half; i++) {
            float first = x[i], second = x[i + a.half];
            out[i] = first * cos[i] - second * sin[i];
            out[i + a.half] = second * cos[i] + first * sin[i];
        }
        for (i64 i = 2 * a.half; i < a.dim; i++) out[i] = x[i];
    }
}

// ---- whole rows of a GGUF file's blocks -> fp32 ------------------------------------------------------------------------------

struct Unpack { const uint8_t* data; float* out; i64 rows, k, kind; };

void unpack(const Unpack& a, Team& team, int thread) {
    Range mine = team.share(a.rows, thread);
    by_kind(a.kind, [&](auto kind) {
        using S = Shape<kind.value>;
        for (i64 n = mine.begin; n < mine.end; n++)
            for (i64 g = 0, groups = a.k / 32; g < groups; g += 8) {
                const uint8_t* p = a.data + (n * a.k + g * 32) / S::size * S::bytes;
                unpack_blocks<kind.value>(p, groups - g < 8 ? groups - g : 8, a.out + n * a.k + g * 32);
            }
    });
}

// ---- measured read bandwidth: the roofline -------------------------------------------------------------------------------

struct Read { const char* data; i64 bytes; i64* out; };

void read(const Read& a, Team& team, int thread) {
    Range mine = team.share(a.bytes / 128, thread);
    __m256i acc[4] = {};
    for (i64 i = mine.begin; i < mine.end; i++)
        for (int v = 0; v < 4; v++) acc[v] = _mm256_add_epi32(acc[v], load(a.data + i * 128 + v * 32));
    a.out[thread] = sum(_mm256_add_epi32(_mm256_add_epi32(acc[0], acc[1]), _mm256_add_epi32(acc[2], acc[3])));
}

}  // namespace

// ---- the one entry point --------------------------------------------------------------------------------------------------

struct Op { i64 code; i64 args[23]; };

i64 row_bytes(i64 kind, i64 k) {
    i64 bytes = k * kind / 8;
    if (kind > FILE_BLOCKS) by_kind(kind - FILE_BLOCKS, [&](auto block) { using S = Shape<block.value>; bytes = k / S::size * S::bytes; });
    return bytes;
}

// The bytes that a thread probably reads first in the next linear layer: its first piece, as `linear` hands them out.
Range ahead(const Op* op, const Op* end, int thread, int threads) {
    while (op < end && op->code != 0) op++;
    if (op == end) return {0, 0};
    const Linear& a = *(const Linear*)op->args;
    i64 total = 0, bytes = row_bytes(a.weights[0].kind, a.k);
    for (i64 i = 0; i < a.count; i++) total += a.weights[i].n;
    i64 begin = (i64)a.weights[0].data + total / 8 * thread / threads * 8 * bytes, most = a.weights[0].n * bytes;
    return {begin, begin + (most < 65536 ? most : 65536)};
}

extern "C" void run(const Op* ops, i64 count, int threads) {
    Team team;
    if (threads > MOST) threads = MOST;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int thread = omp_get_thread_num();
        team.threads = omp_get_num_threads();  // all threads store the same
        for (i64 i = 0; i < count; i++) {
            const void* args = ops[i].args;
            switch (ops[i].code) {
                case 0: linear(*(const Linear*)args, team, thread); break;
                case 1: attend(*(const Attend*)args, team, thread); break;
                case 2: rms_norm(*(const RmsNorm*)args, team, thread); break;
                case 3: add(*(const Binary*)args, team, thread); break;
                case 4: mul(*(const Binary*)args, team, thread); break;
                case 5: act(*(const Act*)args, team, thread); break;
                case 6: rope(*(const Rope*)args, team, thread); break;
                case 8: unpack(*(const Unpack*)args, team, thread); break;
                case 7: read(*(const Read*)args, team, thread); break;
            }
            team.barrier(ahead(ops + i + 1, ops + count, thread, team.threads));
        }
    }
}
