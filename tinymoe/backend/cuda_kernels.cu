// The GPU's own kernels, for `cupy_gpu.py`. REAL is float or double: compiled once for each.
//
// Letters as in reference.py. Matrices are row-major, their last axis without gaps. Every sum is made in an order that
// does not depend on the scheduler, so that the same step gives the same bits: there is no atomic addition.

typedef REAL real;
typedef unsigned short bf16;  // the upper half of a float32
typedef long long i64;

#define WARP 32
#define ALL_LANES 0xffffffffu
#define LOOP(i, n) for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < (n); i += (i64)gridDim.x * blockDim.x)

__device__ float from_bits(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }

__device__ unsigned to_bits(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }

__device__ bf16 round_to_bf16(real wide) {
    float x = (float)wide;
    unsigned bits = to_bits(x);
    if (x != x) return 0x7fc0;                                       // rounding could turn a NaN into infinity
    return (bf16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);     // to nearest, ties to even
}

__device__ real infinity() { return (real)from_bits(0x7f800000u); }

__device__ bool is_finite(double x) { return x - x == 0; }

__device__ real warp_sum(real x) {
    for (int step = WARP / 2; step; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

__device__ real warp_max(real x) {
    for (int step = WARP / 2; step; step /= 2) {
        real other = __shfl_xor_sync(ALL_LANES, x, step);
        if (other > x || other != other) x = other;                  // a NaN wins: it must not be hidden
    }
    return x;
}

// The sum over a block, for all its threads. Blocks are of whole warps.
__device__ real block_sum(real x) {
    __shared__ real parts[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_sum(x);
    __syncthreads();                                                 // the last call's result has been read
    if (lane == 0) parts[warp] = x;
    __syncthreads();
    return warp_sum(lane < (int)blockDim.x / WARP ? parts[lane] : (real)0);
}

__device__ real block_max(real x) {
    __shared__ real parts[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) parts[warp] = x;
    __syncthreads();
    return warp_max(lane < (int)blockDim.x / WARP ? parts[lane] : -infinity());
}

__device__ real sigmoid(real x) { return (real)1 / ((real)1 + exp(-x)); }

// ---- elementwise

extern "C" __global__ void narrow(const real* x, bf16* y, i64 n) {
    LOOP(i, n) y[i] = round_to_bf16(x[i]);
}

extern "C" __global__ void erf_all(const real* x, real* y, i64 n) {
    LOOP(i, n) y[i] = erf(x[i]);
}

extern "C" __global__ void swiglu(const real* gate, const real* up, real* y, i64 n) {
    LOOP(i, n) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

extern "C" __global__ void swiglu_backward(
    const real* g, const real* gate, const real* up, real* dgate, real* dup, i64 n) {
    LOOP(i, n) {
        real s = sigmoid(gate[i]), silu = gate[i] * s;
        dup[i] = g[i] * silu;
        dgate[i] = g[i] * up[i] * (s + silu * (1 - s));
    }
}

// x (B, T, H, D) with any strides but the last; cos and sin (B or 1, T, half). One thread a number of a half.
extern "C" __global__ void rope(
    const real* x, i64 text_stride, i64 token_stride, i64 head_stride, const real* cos, const real* sin,
    real* y, i64 n, int tokens, int heads, int dim, int half, int tables) {
    int work = dim - half;                                           // a pair, or a channel that stays as it is
    LOOP(i, n) {
        int j = i % work;
        i64 head = i / work, row = head / heads, text = row / tokens, token = row % tokens;
        const real* from = x + text * text_stride + token * token_stride + (head % heads) * head_stride;
        real* to = y + head * dim;
        if (j >= half) {
            to[half + j] = from[half + j];
            continue;
        }
        i64 place = (text % tables * tokens + token) * half + j;
        real first = from[j], second = from[j + half];
        to[j] = first * cos[place] - second * sin[place];
        to[j + half] = second * cos[place] + first * sin[place];
    }
}

// (B, T, K, width) with strides -> (B, K, T, width) without gaps, in `wide`, or rounded in `small`.
extern "C" __global__ void pack_heads(
    const real* x, i64 text_stride, i64 token_stride, i64 head_stride, real* wide, bf16* small, i64 n,
    int tokens, int heads, int group, int dim) {
    int width = group * dim;
    LOOP(i, n) {
        int j = i % width;
        i64 row = i / width, token = row % tokens, head = row / tokens % heads, text = row / tokens / heads;
        real value = x[text * text_stride + token * token_stride + (head * group + j / dim) * head_stride + j % dim];
        if (wide) wide[i] = value;
        if (small) small[i] = round_to_bf16(value);
    }
}

// The way back: (B, K, T, width) -> (B, T, K, width).
extern "C" __global__ void unpack_heads(const real* x, real* y, i64 n, int tokens, int heads, int width) {
    LOOP(i, n) {
        int j = i % width;
        i64 row = i / width, head = row % heads, token = row / heads % tokens, text = row / heads / tokens;
        y[i] = x[((text * heads + head) * tokens + token) * width + j];
    }
}

// ---- rows

extern "C" __global__ void rms_norm(
    const real* x, const real* weight, real* y, real* inverse_rms, int width, real eps) {
    const real* from = x + blockIdx.x * (i64)width;
    real total = 0;
    for (int j = threadIdx.x; j < width; j += blockDim.x) total += from[j] * from[j];
    real r = (real)1 / sqrt(block_sum(total) / width + eps);
    if (threadIdx.x == 0) inverse_rms[blockIdx.x] = r;
    for (int j = threadIdx.x; j < width; j += blockDim.x) y[blockIdx.x * (i64)width + j] = from[j] * r * weight[j];
}

// Each block takes every gridDim-th row, and sums its share of the weight's gradient in its row of `partial`, which
// begins as zeros.
extern "C" __global__ void rms_norm_backward(
    const real* g, const real* x, const real* weight, const real* inverse_rms, real* dx, real* partial, i64 rows,
    int width) {
    real* mine = partial + blockIdx.x * (i64)width;
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const real *gi = g + row * width, *xi = x + row * width;
        real r = inverse_rms[row], dot = 0;
        for (int j = threadIdx.x; j < width; j += blockDim.x) dot += gi[j] * weight[j] * xi[j];
        dot = block_sum(dot) * r * r / width;
        for (int j = threadIdx.x; j < width; j += blockDim.x) {
            dx[row * width + j] = r * (gi[j] * weight[j] - xi[j] * dot);
            mine[j] += gi[j] * xi[j] * r;
        }
    }
}

// sum_j a_ij b_ij, a warp a row.
extern "C" __global__ void row_dots(const real* a, const real* b, real* y, i64 rows, int width) {
    i64 row = (blockIdx.x * (i64)blockDim.x + threadIdx.x) / WARP;
    if (row >= rows) return;                                         // whole warps only
    real total = 0;
    for (int j = threadIdx.x % WARP; j < width; j += WARP) total += a[row * width + j] * b[row * width + j];
    total = warp_sum(total);
    if (threadIdx.x % WARP == 0) y[row] = total;
}

// logits (N, V) become their gradient, in place, or rounded in `small`. A block a row; targets below 0 are ignored.
extern "C" __global__ void cross_entropy(
    real* logits, bf16* small, const real* bias, const i64* targets, real* losses, int vocab, real softcap,
    int needs_grad) {
    real* line = logits + blockIdx.x * (i64)vocab;
    i64 target = targets[blockIdx.x];
    bool counted = target >= 0;
    real top = -infinity(), total = 0;
    for (int j = threadIdx.x; j < vocab; j += blockDim.x) {
        real x = line[j] + (bias ? bias[j] : (real)0);
        if (softcap > 0) x = softcap * tanh(x / softcap);
        line[j] = x;
        if (x > top || x != x) top = x;
    }
    top = block_max(top);
    for (int j = threadIdx.x; j < vocab; j += blockDim.x) total += exp(line[j] - top);
    total = block_sum(total);                                        // all of the line is written, by its barrier
    if (threadIdx.x == 0) {
        real picked = !counted ? (real)0 : target < vocab ? line[target] : infinity() - infinity();
        losses[blockIdx.x] = counted ? log(total) - (picked - top) : (real)0;
    }
    if (!needs_grad) return;
    __syncthreads();                                                 // line[target] has been read
    for (int j = threadIdx.x; j < vocab; j += blockDim.x) {
        real d = counted ? exp(line[j] - top) / total - (j == target ? (real)1 : (real)0) : (real)0;
        if (softcap > 0) d *= 1 - line[j] / softcap * (line[j] / softcap);
        line[j] = d;
        if (small) small[blockIdx.x * (i64)vocab + j] = round_to_bf16(d);
    }
}

// The k largest of each row, the largest first and of equals the first; NaN counts as the smallest. A warp a row: in
// each turn the best of those that come after the one chosen last.
__device__ bool before(real a, int i, real b, int j) {               // whether entry (a, i) is to be chosen before (b, j)
    bool nan_a = a != a, nan_b = b != b;
    if (nan_a != nan_b) return nan_b;
    return nan_a || a == b ? i < j : a > b;
}

extern "C" __global__ void top_k(const real* scores, i64* chosen, i64 rows, int width, int k) {
    i64 row = (blockIdx.x * (i64)blockDim.x + threadIdx.x) / WARP;
    if (row >= rows) return;
    const real* line = scores + row * width;
    real last = 0;
    int last_place = -1;
    for (int turn = 0; turn < k; turn++) {
        real best = 0;
        int place = -1;
        for (int j = threadIdx.x % WARP; j < width; j += WARP) {
            bool open = last_place < 0 || before(last, last_place, line[j], j);
            if (open && (place < 0 || before(line[j], j, best, place))) { best = line[j]; place = j; }
        }
        for (int step = WARP / 2; step; step /= 2) {
            real other = __shfl_xor_sync(ALL_LANES, best, step);
            int its_place = __shfl_xor_sync(ALL_LANES, place, step);
            if (its_place >= 0 && (place < 0 || before(other, its_place, best, place))) { best = other; place = its_place; }
        }
        last = best;
        last_place = place;
        if (threadIdx.x % WARP == 0) chosen[row * k + turn] = place;
    }
}

// ---- attention

// What decides which keys a query sees, and how its scores are bent: `AttentionRules`, and the place of a block of
// queries. Rows are (B, K, t, G); a row's line holds its scores with the keys first_key to first_key + keys.
struct Rules {
    const real *slopes, *sinks;
    const i64 *q_documents, *k_documents;                          // (B, T) and (B, S)
    const unsigned char* chosen;                                     // (B, t, keys) of booleans
    real scale, softcap;
    int window, offset, first_query, first_key, queries, keys, heads, group, all_queries, all_keys;
};

#define RULES {slopes, sinks, q_documents, k_documents, chosen, scale, softcap, window, offset, first_query,          \
        first_key, queries, keys, heads, group, all_queries, all_keys}

struct Line { i64 text, query; int head, place, from, to; };       // keys `from` to `to` of the line may be seen

__device__ Line line_of(const Rules& rules, i64 row) {
    Line line;
    i64 head = row / rules.group / rules.queries;                  // of B * K
    line.query = row / rules.group % rules.queries;
    line.text = head / rules.heads;
    line.head = (int)(head % rules.heads) * rules.group + (int)(row % rules.group);
    line.place = rules.offset + rules.first_query + (int)line.query; // of the query among all keys
    line.to = min(line.place + 1 - rules.first_key, rules.keys);
    line.from = rules.window > 0 ? max(line.place - rules.window + 1 - rules.first_key, 0) : 0;
    return line;
}

__device__ bool sees(const Rules& rules, const Line& line, int j) {
    if (rules.q_documents &&
        rules.q_documents[line.text * rules.all_queries + rules.first_query + line.query] !=
            rules.k_documents[line.text * rules.all_keys + rules.first_key + j]) return false;
    return !rules.chosen || rules.chosen[(line.text * rules.queries + line.query) * rules.keys + j];
}

// The dot product, scaled and capped; then ALiBi's slope.
__device__ real capped(const Rules& rules, real score) {
    score *= rules.scale;
    return rules.softcap > 0 ? rules.softcap * tanh(score / rules.softcap) : score;
}

__device__ real tilted(const Rules& rules, const Line& line, int j, real score) {
    return rules.slopes ? score - rules.slopes[line.head] * (real)(line.place - rules.first_key - j) : score;
}

// scores become probabilities, in place, or rounded in `small`; lse (B, K, T, G) gets the log-sum-exp. A block a row.
extern "C" __global__ void attention_softmax(
    real* scores, bf16* small, real* lse, const real* slopes, const real* sinks, const i64* q_documents,
    const i64* k_documents, const unsigned char* chosen, real scale, real softcap, int window, int offset,
    int first_query, int first_key, int queries, int keys, int heads, int group, int all_queries, int all_keys) {
    Rules rules = RULES;
    Line line = line_of(rules, blockIdx.x);
    real* mine = scores + blockIdx.x * (i64)keys;
    real top = sinks ? sinks[line.head] : -infinity();
    for (int j = line.from + threadIdx.x; j < line.to; j += blockDim.x) {
        if (!sees(rules, line, j)) continue;
        real x = tilted(rules, line, j, capped(rules, mine[j]));
        if (x > top || x != x) top = x;
    }
    top = block_max(top);
    real total = 0;
    for (int j = line.from + threadIdx.x; j < line.to; j += blockDim.x) {
        real weight = sees(rules, line, j) ? exp(tilted(rules, line, j, capped(rules, mine[j])) - top) : (real)0;
        mine[j] = weight;
        total += weight;
    }
    total = block_sum(total);
    if (sinks) total += exp(sinks[line.head] - top);
    i64 head = blockIdx.x / ((i64)group * queries), row = blockIdx.x % ((i64)group * queries);
    if (threadIdx.x == 0) lse[(head * all_queries + first_query) * group + row] = top + log(total);
    for (int j = threadIdx.x; j < keys; j += blockDim.x) {
        real weight = 0;
        if (j >= line.from && j < line.to) weight = mine[j] / total;
        if (small) small[blockIdx.x * (i64)keys + j] = round_to_bf16(weight);
        else mine[j] = weight;
    }
}

// scores become probabilities again, and dweights the gradient of the dot products.
extern "C" __global__ void attention_softmax_backward(
    real* scores, real* dweights, bf16* small, bf16* dsmall, const real* lse, const real* delta,
    const real* slopes, const real* sinks, const i64* q_documents,
    const i64* k_documents, const unsigned char* chosen, real scale, real softcap, int window, int offset,
    int first_query, int first_key, int queries, int keys, int heads, int group, int all_queries, int all_keys) {
    Rules rules = RULES;
    Line line = line_of(rules, blockIdx.x);
    i64 head = blockIdx.x / ((i64)group * queries), row = blockIdx.x % ((i64)group * queries);
    i64 place = (head * all_queries + first_query) * group + row, start = blockIdx.x * (i64)keys;
    for (int j = threadIdx.x; j < keys; j += blockDim.x) {
        real weight = 0, d = 0;
        if (j >= line.from && j < line.to && sees(rules, line, j)) {
            real score = capped(rules, scores[start + j]);
            weight = exp(tilted(rules, line, j, score) - lse[place]);
            d = weight * (dweights[start + j] - delta[place]) * scale;
            if (softcap > 0) d *= 1 - score / softcap * (score / softcap);
        }
        if (small) {
            small[start + j] = round_to_bf16(weight);
            dsmall[start + j] = round_to_bf16(d);
        } else {
            scores[start + j] = weight;
            dweights[start + j] = d;
        }
    }
}

// The gradient of each head's sink: -sum over B and T of exp(sink - lse) * delta. A block a head.
extern "C" __global__ void sinks_backward(
    const real* sinks, const real* lse, const real* delta, real* dsinks, int texts, int heads, int tokens, int group) {
    int head = blockIdx.x / group, member = blockIdx.x % group;
    real total = 0;
    for (i64 i = threadIdx.x; i < (i64)texts * tokens; i += blockDim.x) {
        i64 place = ((i / tokens * heads + head) * tokens + i % tokens) * group + member;
        total += exp(sinks[blockIdx.x] - lse[place]) * delta[place];
    }
    total = block_sum(total);
    if (threadIdx.x == 0) dsinks[blockIdx.x] = -total;
}

// ---- sorting whole numbers, 8 bits at a time: stable, and the same on every run

#define TILE 256
#define DIGITS 256

// counts (DIGITS, blocks): how many of a block's tile have each digit. A thread a digit.
extern "C" __global__ void sort_count(const int* keys, int* counts, int n, int shift) {
    __shared__ int digits[TILE];
    int i = blockIdx.x * TILE + threadIdx.x, count = 0;
    digits[threadIdx.x] = i < n ? keys[i] >> shift & (DIGITS - 1) : -1;
    __syncthreads();
    for (int j = 0; j < TILE; j++) count += digits[j] == (int)threadIdx.x;
    counts[threadIdx.x * gridDim.x + blockIdx.x] = count;
}

// Each entry becomes the sum of those before it. One block.
extern "C" __global__ void exclusive_scan(int* values, int n) {
    __shared__ int ends[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, carried = 0;
    for (int start = 0; start < n; start += blockDim.x) {
        int i = start + threadIdx.x, value = i < n ? values[i] : 0, sum = value;
        for (int step = 1; step < WARP; step *= 2) {
            int other = __shfl_up_sync(ALL_LANES, sum, step);
            if (lane >= step) sum += other;
        }
        if (lane == WARP - 1) ends[warp] = sum;
        __syncthreads();
        int total = 0;
        for (int w = 0; w < (int)blockDim.x / WARP; w++) {
            if (w < warp) sum += ends[w];
            total += ends[w];
        }
        if (i < n) values[i] = carried + sum - value;
        carried += total;
        __syncthreads();                                             // before `ends` is written again
    }
}

// Where each entry goes: after all of a smaller digit, and those of its own digit before it. values may be null for
// 0, 1, 2, … .
extern "C" __global__ void sort_scatter(
    const int* keys, const int* values, const int* starts, int* new_keys, int* new_values, int n, int shift) {
    __shared__ int digits[TILE];
    int i = blockIdx.x * TILE + threadIdx.x;
    digits[threadIdx.x] = i < n ? keys[i] >> shift & (DIGITS - 1) : -1;
    __syncthreads();
    if (i >= n) return;
    int digit = digits[threadIdx.x], rank = 0;
    for (int j = 0; j < (int)threadIdx.x; j++) rank += digits[j] == digit;
    int place = starts[digit * gridDim.x + blockIdx.x] + rank;
    new_keys[place] = keys[i];
    new_values[place] = values ? values[i] : i;
}

// boundaries[i]: how many of the sorted keys are below first + i.
extern "C" __global__ void lower_bounds(const int* keys, int n, int first, int* boundaries, int count) {
    LOOP(i, count) {
        int low = 0, high = n;
        while (low < high) {
            int middle = (low + high) / 2;
            if (keys[middle] < first + i) low = middle + 1; else high = middle;
        }
        boundaries[i] = low;
    }
}

extern "C" __global__ void count_ids(const int* boundaries, i64* counts, int n) {
    LOOP(i, n) counts[i] = boundaries[i + 1] - boundaries[i];
}

// ---- gathering and scattering rows

// The gradient rows of each id, sorted by id, are summed by the block that stands at the first of them.
extern "C" __global__ void embedding_backward(
    const real* g, const int* ids, const int* order, real* table, int n, int rows, int width) {
    int first = blockIdx.x, id = ids[first];
    if (id < 0 || id >= rows || (first > 0 && ids[first - 1] == id)) return;
    for (int j = threadIdx.x; j < width; j += blockDim.x) {
        real total = 0;
        for (int i = first; i < n && ids[i] == id; i++) total += g[order[i] * (i64)width + j];
        table[id * (i64)width + j] = total;
    }
}

// places (N k): where the row of each pair stands; it begins as -1. A pair below 0 has no row.
extern "C" __global__ void invert_pairs(const i64* pairs, int* places, i64 n) {
    LOOP(i, n) if (pairs[i] >= 0) places[pairs[i]] = (int)i;
}

// Pairs of a token and its expert, sorted by expert + 1; those of expert -1, sorted to the front, become -1.
extern "C" __global__ void mark_dropped(const int* experts, const int* order, i64* pairs, int n) {
    LOOP(i, n) pairs[i] = experts[i] == 0 ? -1 : order[i];
}

extern "C" __global__ void combine(
    const real* rows, const real* weights, const int* places, real* y, int k, int width) {
    for (int j = threadIdx.x; j < width; j += blockDim.x) {
        real total = 0;
        for (int choice = 0; choice < k; choice++) {
            i64 pair = blockIdx.x * (i64)k + choice;
            if (places[pair] >= 0) total += weights[pair] * rows[places[pair] * (i64)width + j];
        }
        y[blockIdx.x * (i64)width + j] = total;
    }
}

extern "C" __global__ void combine_backward(
    const real* g, const real* rows, const real* weights, const int* places, real* drows, real* dweights, int k,
    int width) {
    for (int choice = 0; choice < k; choice++) {
        i64 pair = blockIdx.x * (i64)k + choice, place = places[pair];
        real dot = 0;
        for (int j = threadIdx.x; place >= 0 && j < width; j += blockDim.x) {
            real d = g[blockIdx.x * (i64)width + j];
            dot += d * rows[place * width + j];
            drows[place * width + j] = weights[pair] * d;
        }
        dot = block_sum(dot);
        if (threadIdx.x == 0) dweights[pair] = dot;
    }
}

// ---- grouped matrix products: how many rows a group has is known on the GPU alone

#define EDGE 64                                                      // of a block's tile of the result
#define DEPTH 16                                                     // of the strips multiplied at a time
#define SHARE 4                                                      // a thread's part of the tile is SHARE x SHARE

// How factors are rounded before they are multiplied; the tensor cores know no more than TF32's 10 bits.
enum { EXACT, TF32, BFLOAT16 };

__device__ unsigned round_to_tf32(real x) { return (to_bits((float)x) + 0x1000u) & 0xffffe000u; }

__device__ unsigned pair_of_bf16(real low, real high) {
    return (unsigned)round_to_bf16(high) << 16 | round_to_bf16(low);
}

// A warp's product on the tensor cores: c (16, 8) += a (16, depth) b (depth, 8), depth 8 for TF32 and 16 for bfloat16.
// Lane 4 g + t holds c[g][2t], c[g][2t + 1], and the same of row g + 8; of a, rows g and g + 8 of column t (TF32) or of
// the pair of columns 2t (bfloat16), then the same half of the depth further; of b likewise, in column g.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define TENSOR_CORES(name, kind)                                                                                      \
    __device__ void name(float* c, const unsigned* a, const unsigned* b) {                                            \
        asm volatile("mma.sync.aligned." kind " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"      \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                             \
    }
TENSOR_CORES(multiply_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
TENSOR_CORES(multiply_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
#elif defined(__CUDA_ARCH__)
__device__ void multiply_tf32(float*, const unsigned*, const unsigned*) {}  // never called: see `precision`
__device__ void multiply_bf16(float*, const unsigned*, const unsigned*) {}
#endif

typedef real Strip[DEPTH][EDGE + 1];                                 // in shared memory, one of each factor

// sums += a^T b for a tile of EDGE x EDGE, by 256 threads. What is a thread's own is told by `own_row` and `own_column`.
__device__ void multiply(const Strip& a, const Strip& b, real (*sums)[SHARE], int rounding) {
    if (rounding == EXACT) {
        int row = threadIdx.x / 16, column = threadIdx.x % 16;
        for (int d = 0; d < DEPTH; d++)
            for (int i = 0; i < SHARE; i++)
                for (int j = 0; j < SHARE; j++) sums[i][j] += a[d][row + 16 * i] * b[d][column + 16 * j];
        return;
    }
    int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;       // a warp has 16 rows and 32 columns of the tile
    int top = threadIdx.x / WARP / 2 * 16 + g, left = threadIdx.x / WARP % 2 * 32 + g;
    int depth = rounding == TF32 ? 8 : 16;
    for (int d = 0; d < DEPTH; d += depth) {
        unsigned x[4], y[2];
        for (int i = 0; i < 4; i++) {
            int row = top + i % 2 * 8, level = d + i / 2 * (depth / 2);
            x[i] = rounding == TF32 ? round_to_tf32(a[level + t][row])
                                    : pair_of_bf16(a[level + 2 * t][row], a[level + 2 * t + 1][row]);
        }
        for (int j = 0; j < SHARE; j++) {
            int column = left + 8 * j;
            for (int i = 0; i < 2; i++) {
                int level = d + i * (depth / 2);
                y[i] = rounding == TF32 ? round_to_tf32(b[level + t][column])
                                        : pair_of_bf16(b[level + 2 * t][column], b[level + 2 * t + 1][column]);
            }
            float c[4] = {(float)sums[j][0], (float)sums[j][1], (float)sums[j][2], (float)sums[j][3]};
            if (rounding == TF32) multiply_tf32(c, x, y); else multiply_bf16(c, x, y);
            for (int i = 0; i < 4; i++) sums[j][i] = c[i];
        }
    }
}

__device__ int own_row(int i, int j, int rounding) {
    if (rounding == EXACT) return threadIdx.x / 16 + 16 * i;
    return threadIdx.x / WARP / 2 * 16 + threadIdx.x % WARP / 4 + j / 2 * 8;
}

__device__ int own_column(int i, int j, int rounding) {
    if (rounding == EXACT) return threadIdx.x % 16 + 16 * j;
    return threadIdx.x / WARP % 2 * 32 + 8 * i + threadIdx.x % 4 * 2 + j % 2;
}

// y[r] = x[r] weight[e]^T, or x[r] weight[e] where `across` is 0, for the rows r of each group e. x (P, depth), weight
// (E, width, depth) or (E, depth, width), y (P, width). Block y takes the y-th tile of rows there is.
extern "C" __global__ void grouped_rows(
    const real* x, const real* weight, real* y, const int* offsets, int groups, int width, int depth, int across,
    int rounding) {
    __shared__ Strip a, b;
    int tile = blockIdx.y, e = 0;
    for (; e < groups; e++) {
        int tiles = (offsets[e + 1] - offsets[e] + EDGE - 1) / EDGE;
        if (tile < tiles) break;
        tile -= tiles;
    }
    if (e == groups) return;                                         // the whole block
    int first = offsets[e] + tile * EDGE, last = min(first + EDGE, offsets[e + 1]), left = blockIdx.x * EDGE;
    const real* matrix = weight + e * (i64)width * depth;
    real sums[SHARE][SHARE] = {};
    for (int d0 = 0; d0 < depth; d0 += DEPTH) {
        for (int i = threadIdx.x; i < EDGE * DEPTH; i += blockDim.x) {
            int row = first + i / DEPTH, d = d0 + i % DEPTH;
            a[i % DEPTH][i / DEPTH] = row < last && d < depth ? x[row * (i64)depth + d] : (real)0;
            int column = across ? i / DEPTH : i % EDGE, level = across ? i % DEPTH : i / EDGE;
            bool inside = left + column < width && d0 + level < depth;
            i64 place = across ? (left + column) * (i64)depth + d0 + level : (d0 + level) * (i64)width + left + column;
            b[level][column] = inside ? matrix[place] : (real)0;
        }
        __syncthreads();
        multiply(a, b, sums, rounding);
        __syncthreads();
    }
    for (int i = 0; i < SHARE; i++)
        for (int j = 0; j < SHARE; j++) {
            int row = first + own_row(i, j, rounding), column = left + own_column(i, j, rounding);
            if (row < last && column < width) y[row * (i64)width + column] = sums[i][j];
        }
}

// dweight[e] = g[rows]^T x[rows] over the rows of group e. g (P, height), x (P, width), dweight (E, height, width).
extern "C" __global__ void grouped_weights(
    const real* g, const real* x, real* dweight, const int* offsets, int height, int width, int rounding) {
    __shared__ Strip a, b;
    int e = blockIdx.z, top = blockIdx.y * EDGE, left = blockIdx.x * EDGE, last = offsets[e + 1];
    real sums[SHARE][SHARE] = {};
    for (int row0 = offsets[e]; row0 < last; row0 += DEPTH) {
        for (int i = threadIdx.x; i < EDGE * DEPTH; i += blockDim.x) {
            int level = i / EDGE, place = i % EDGE, row = row0 + level;
            a[level][place] = row < last && top + place < height ? g[row * (i64)height + top + place] : (real)0;
            b[level][place] = row < last && left + place < width ? x[row * (i64)width + left + place] : (real)0;
        }
        __syncthreads();
        multiply(a, b, sums, rounding);
        __syncthreads();
    }
    for (int i = 0; i < SHARE; i++)
        for (int j = 0; j < SHARE; j++) {
            int row = top + own_row(i, j, rounding), column = left + own_column(i, j, rounding);
            if (row < height && column < width) dweight[(e * (i64)height + row) * width + column] = sums[i][j];
        }
}

// ---- the optimizer: all parameters in one launch

// What a step did, in `figures`: the loss, the norm of the gradient, and what gradients are multiplied by, which is NaN
// for a step that must not happen.
enum { LOSS, NORM, FACTOR };

// A tensor of the table: its pointers, and its size. A block takes `chunk` numbers of one tensor: chunks (blocks, 2)
// holds the tensor's number, and the first of the numbers.
struct Parameter { real *p, *g, *m, *v; i64 size; };

// The sum of the squares of a block's chunk of gradients.
extern "C" __global__ void sum_squares(const Parameter* table, const i64* chunks, double* partial, int chunk) {
    const Parameter t = table[chunks[2 * blockIdx.x]];
    i64 first = chunks[2 * blockIdx.x + 1];
    real total = 0;
    for (i64 i = first + threadIdx.x; i < first + chunk && i < t.size; i += blockDim.x) total += t.g[i] * t.g[i];
    total = block_sum(total);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// One block: figures from the loss and the partial sums. max_norm of 0 clips nothing.
extern "C" __global__ void judge(const double* partial, int n, const real* loss, double max_norm, double* figures) {
    __shared__ double sums[TILE];
    double total = 0;
    for (int i = threadIdx.x; i < n; i += TILE) total += partial[i];
    sums[threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < TILE; i++) total += sums[i];
    double norm = sqrt(total), factor = 1;
    if (max_norm > 0 && norm + 1e-6 > max_norm) factor = max_norm / (norm + 1e-6);
    figures[LOSS] = *loss;
    figures[NORM] = norm;
    figures[FACTOR] = is_finite(norm) && is_finite(*loss) ? factor : from_bits(0x7fc00000u);
}

__device__ void update(
    real& p, real g, real& m, real& v, real gain1, real gain2, real shrink, real rate, real root, real eps) {
    m += gain1 * (g - m);
    v += gain2 * (g * g - v);
    p = p * shrink - rate * m / (sqrt(v) * root + eps);
}

// settings (tensors, 6): 1 - beta1, 1 - beta2, 1 - lr * weight_decay, lr / (1 - beta1^step), 1 / sqrt(1 - beta2^step),
// and eps.
extern "C" __global__ void adamw(
    const Parameter* table, const i64* chunks, const double* settings, const double* figures, int chunk) {
    const Parameter t = table[chunks[2 * blockIdx.x]];
    const double* s = settings + 6 * chunks[2 * blockIdx.x];
    if (!is_finite(figures[FACTOR])) return;
    real factor = figures[FACTOR], gain1 = s[0], gain2 = s[1], shrink = s[2], rate = s[3], root = s[4], eps = s[5];
    i64 first = chunks[2 * blockIdx.x + 1];
    for (i64 i = first + threadIdx.x; i < first + chunk && i < t.size; i += blockDim.x)
        update(t.p[i], t.g[i] * factor, t.m[i], t.v[i], gain1, gain2, shrink, rate, root, eps);
}

extern "C" __global__ void adamw_one(
    real* p, const real* g, real* m, real* v, i64 n, real factor, real gain1, real gain2, real shrink, real rate,
    real root, real eps) {
    LOOP(i, n) update(p[i], g[i] * factor, m[i], v[i], gain1, gain2, shrink, rate, root, eps);
}
