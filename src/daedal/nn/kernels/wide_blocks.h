// Many rows of activations times the blocks of GGUF files: a matrix product of bytes.
//
// Sixteen outputs stand side by side: of a SUPER of inputs their levels become a panel of bytes (64 fours of inputs, 16 outputs, 4), so that
// one instruction multiplies four inputs of all of them by one row's activations. Sums of a group are exact integers; a group then costs one
// conversion and two FMAs a row: scale * (scale of the activations) * sum - min * (sum of the activations).

#if LONG_VECTORS
struct Sixteen {  // int32
    __m512i v = _mm512_setzero_si512();
    template <bool sign> void add(const int* weights, int a) { v = _mm512_dpbusd_epi32(v, _mm512_load_si512(weights), _mm512_set1_epi32(a)); }
};
struct Floats {
    __m512 v = _mm512_setzero_ps();
    static Floats load(const float* p) { return {_mm512_load_ps(p)}; }
    void store(float* p) const { _mm512_store_ps(p, v); }
    Floats times(float x) const { return {_mm512_mul_ps(v, _mm512_set1_ps(x))}; }
    void add(const Sixteen& sums, const Floats& by) { v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums.v), by.v, v); }
    void subtract(const Floats& min, float x) { v = _mm512_fnmadd_ps(min.v, _mm512_set1_ps(x), v); }
};
#else
struct Sixteen {
    __m256i v[2] = {};
    template <bool sign> void add(const int* weights, int a) {
        for (int h = 0; h < 2; h++) v[h] = _mm256_add_epi32(v[h], dot8<sign>(::load(weights + 8 * h), _mm256_set1_epi32(a)));
    }
};
struct Floats {
    __m256 v[2] = {};
    static Floats load(const float* p) { return {{_mm256_load_ps(p), _mm256_load_ps(p + 8)}}; }
    void store(float* p) const { _mm256_store_ps(p, v[0]), _mm256_store_ps(p + 8, v[1]); }
    Floats times(float x) const { return {{_mm256_mul_ps(v[0], _mm256_set1_ps(x)), _mm256_mul_ps(v[1], _mm256_set1_ps(x))}}; }
    void add(const Sixteen& sums, const Floats& by) {
        for (int h = 0; h < 2; h++) v[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums.v[h]), by.v[h], v[h]);
    }
    void subtract(const Floats& min, float x) {
        for (int h = 0; h < 2; h++) v[h] = _mm256_fnmadd_ps(min.v[h], _mm256_set1_ps(x), v[h]);
    }
};
#endif

struct Panel {  // of COLUMNS outputs
    alignas(64) int levels[SUPER / 4 * COLUMNS];
    alignas(64) float scale[16 * COLUMNS], min[16 * COLUMNS];  // a row a group
};

template <i64 kind> void pack_panel(const Weight& w, i64 k, i64 n, i64 k0, int count, Panel& panel) {
    using S = Shape<kind>;
    constexpr int most = SUPER / S::group;  // groups
    constexpr i64 piece = SUPER / S::size * S::bytes;  // of a row; the rows' next ones are asked for now, since no prefetcher follows so many
    for (int h = 0; h < COLUMNS; h += 8) {
        const uint8_t* from[8];
        alignas(64) float scale[8][16], min[8][16];
        for (int r = 0; r < 8; r++) {
            i64 row = n + h + r < w.n ? n + h + r : w.n - 1;
            from[r] = (const uint8_t*)w.data + (row * k + k0) / S::size * S::bytes;
            const char* next = (const char*)from[r] + (k0 + SUPER < k ? piece : PANELS * COLUMNS * k / S::size * S::bytes - k0 / S::size * S::bytes);
            for (i64 at = 0; at < piece + 63; at += 64) _mm_prefetch(next + at, _MM_HINT_T0);
            scales<kind>(from[r], count, scale[r], min[r]);
        }
        for (int i = 0; i < most; i += 8) {
            __m256i v[8], u[8];
            for (int r = 0; r < 8; r++) v[r] = load(scale[r] + i), u[r] = load(min[r] + i);
            transpose8(v);
            if constexpr (!S::sign) transpose8(u);
            for (int j = 0; j < 8; j++) {
                if constexpr (S::sign) u[j] = _mm256_castps_si256(_mm256_mul_ps(_mm256_castsi256_ps(v[j]), _mm256_set1_ps(128)));
                _mm256_store_si256((__m256i*)(panel.scale + (i + j) * COLUMNS + h), v[j]);
                _mm256_store_si256((__m256i*)(panel.min + (i + j) * COLUMNS + h), u[j]);
            }
        }
        for (int g = 0; g < count; g++) {
            __m256i v[8];
            for (int r = 0; r < 8; r++) {
                v[r] = levels<kind>(S::size == 32 ? from[r] + g * S::bytes : from[r], g);
                if constexpr (S::sign && OFFSET) v[r] = _mm256_xor_si256(v[r], _mm256_set1_epi8(-128));
            }
            transpose8(v);
            for (int i = 0; i < 8; i++) _mm256_store_si256((__m256i*)(panel.levels + (g * 8 + i) * COLUMNS + h), v[i]);
        }
    }
}

// R rows of activations from m times C panels: adds to out (row stride n), whose width is a multiple of COLUMNS
template <i64 kind, int R, int C> void block_tile(const Activations& x, i64 m, i64 k0, int count, const Panel* panels, float* out, i64 stride) {
    using S = Shape<kind>;
    constexpr int parts = 32 / S::group, fours = S::group / 4;
    constexpr bool least = !S::sign || OFFSET;
    i64 groups = x.k / 32;
    Floats total[R][C];
    for (int r = 0; r < R; r++) for (int c = 0; c < C; c++) if (k0) total[r][c] = Floats::load(out + r * stride + c * COLUMNS);
    for (int g = 0; g < count; g++)
        for (int part = 0; part < parts; part++) {
            Sixteen sums[R][C];
            const int* a = (const int*)(x.int8 + m * x.k + k0) + g * 8 + part * fours;
#pragma GCC unroll 8
            for (int i = 0; i < fours; i++)
#pragma GCC unroll 8
                for (int r = 0; r < R; r++)
#pragma GCC unroll 2
                    for (int c = 0; c < C; c++) sums[r][c].template add<S::sign && !OFFSET>(panels[c].levels + (g * 8 + part * fours + i) * COLUMNS, a[r * (x.k / 4) + i]);
            int at = (g * parts + part) * COLUMNS;
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) {
                Floats scale = Floats::load(panels[c].scale + at), min = Floats::load(panels[c].min + at);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    i64 here = (m + r) * groups + k0 / 32 + g;
                    total[r][c].add(sums[r][c], scale.times(x.scale[here]));
                    if constexpr (least) total[r][c].subtract(min, parts == 1 ? x.sum32[here] : x.sum16[2 * here + part]);
                }
            }
        }
    for (int r = 0; r < R; r++) for (int c = 0; c < C; c++) total[r][c].store(out + r * stride + c * COLUMNS);
}

// All rows times PANELS * COLUMNS outputs from n0, by way of a buffer of whole panels
template <i64 kind> void wide_block(const Weight& w, const Activations& x, i64 n0) {
    Panel* panels = (Panel*)scratch<3>(PANELS * sizeof(Panel));
    constexpr i64 width = PANELS * COLUMNS;
    float* out = (float*)scratch<4>(x.m * width * 4);
    i64 some = w.n - n0 < width ? w.n - n0 : width;
    for (i64 k0 = 0; k0 < x.k; k0 += SUPER) {
        int count = (x.k - k0 < SUPER ? x.k - k0 : SUPER) / 32;
        for (i64 n = 0; n < some; n += COLUMNS) pack_panel<kind>(w, x.k, n0 + n, k0, count, panels[n / COLUMNS]);
        for (i64 n = 0; n < some; n += 2 * COLUMNS) {
            bool two = n + COLUMNS < some;
            for (i64 m = 0; m < x.m;) {
                auto tile = [&](auto rows) {
                    constexpr int R = rows.value;
                    (two ? block_tile<kind, R, 2> : block_tile<kind, R, 1>)(x, m, k0, count, panels + n / COLUMNS, out + m * width + n, width);
                    m += R;
                };
                i64 left = x.m - m;
                if (left >= 6) tile(std::integral_constant<int, 6>());
                else if (left >= 4) tile(std::integral_constant<int, 4>());
                else if (left >= 2) tile(std::integral_constant<int, 2>());
                else tile(std::integral_constant<int, 1>());
            }
        }
    }
    for (i64 m = 0; m < x.m; m++)
        for (i64 n = 0; n < some; n++) w.out[m * w.n + n0 + n] = out[m * width + n] + (w.bias ? w.bias[n0 + n] : 0);
}

void wide_of_blocks(const Linear& a, Team& team, int thread) {
    i64 groups = a.k / GROUP, sums = a.m * groups;
    if (thread == 0) team.shared = scratch<0>(round_up(a.m * a.k, 64) + sums * 4 * 4);
    team.barrier();
    Activations x{a.m, a.k, a.x, nullptr, (int8_t*)team.shared.load(), nullptr, nullptr, nullptr};
    x.scale = (float*)(x.int8 + round_up(a.m * a.k, 64)), x.sum32 = x.scale + sums, x.sum16 = x.sum32 + sums;
    Range mine = team.share(a.m, thread);
    for (i64 m = mine.begin; m < mine.end; m++)
        quantise8(a.x + m * a.stride, a.k, x.int8 + m * a.k, x.scale + m * groups, x.sum32 + m * groups, x.sum16 + 2 * m * groups);
    team.barrier();
    share_columns(a, team, thread, [&](const Weight& w, i64 n) { by_kind(w.kind - FILE_BLOCKS, [&](auto kind) { wide_block<kind.value>(w, x, n); }); });
}
