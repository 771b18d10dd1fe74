/* 3x3 convolutions of stride 1 and padding 1 by Winograd's F(2x2, 3x3), bfloat16, channels last.

   A tile of 2x2 results takes 16 products a pair of channels, not 36: with d the 4x4 pictures' patch around the tile
   and w the weights,

       results = A^T [ (G w G^T) * (B^T d B) ] A        the sum over channels lies between the brackets,

         A^T = 1  1  1  0     B^T = 1  0 -1  0     G =  1   0   0
               0  1 -1 -1           0  1  1  0         1/2  1/2 1/2
                                    0 -1  1  0         1/2 -1/2 1/2
                                    0  1  0 -1          0   0   1

   (Lavin and Gray 2016). For each of the 16 places * is a matrix product over channels. A block of tiles is transformed,
   multiplied and transformed back while it lies in the second-level cache: written to memory in between, the
   transformed pictures, four times as large, would cost what the products save. The pictures' gradient is the same
   convolution with weights turned by half a turn; that of the weights is

       G^T [ sum over tiles (B^T d B) (A dresults A^T) ] G.

   Products take bfloat16 pairs and sum in float32; patches and weights are rounded after their transformation.
   Sizes may be odd: what lies outside is zero and is not written. Every pointer's memory is allotted by the caller. */

#include <string.h>

#include "lanes.h"

enum {
    PLACES = 16,      /* of a 4x4 patch */
    ROWS = 6,         /* a product's registers: 6 x 4 sums and 4 operands of the 32 that there are */
    COLUMNS = 4,      /* of 16 lanes */
    WIDTH = COLUMNS * LANES,
    TILES = 48,       /* of a block */
    PAIRS = TILES,    /* of tiles, in a block of the weights' gradient: that many steps for one look at the sums */
};

typedef struct {
    int64_t picture, row, column;
} Tile; /* row and column of its upper left result */

INLINE Tile tile_at(int64_t number, int64_t height, int64_t width) {
    int64_t down = (height + 1) / 2, across = (width + 1) / 2;
    return (Tile){number / (across * down), number / across % down * 2, number % across * 2};
}

INLINE int64_t tiles_of(int64_t pictures, int64_t height, int64_t width) {
    return pictures * ((height + 1) / 2) * ((width + 1) / 2);
}

/* B^T d B for the patch around `tile`, of 16 channels from `channel` on. */
INLINE void transform_patch(const bfloat16 *images, Tile tile, int64_t channel, int64_t height, int64_t width,
                            int64_t channels, lanes result[4][4]) {
    lanes patch[4][4], half[4][4];
    __mmask16 mask = first_lanes(channels - channel);
    int64_t top = tile.row - 1, left = tile.column - 1;
    const bfloat16 *from = images + ((tile.picture * height + top) * width + left) * channels + channel;
    if (top >= 0 && left >= 0 && top + 3 < height && left + 3 < width) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) patch[i][j] = load(from + (i * width + j) * channels, mask);
    } else {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                int inside = top + i >= 0 && top + i < height && left + j >= 0 && left + j < width;
                patch[i][j] = load(from + (i * width + j) * channels, inside ? mask : 0);
            }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        half[0][j] = subtract(patch[0][j], patch[2][j]);
        half[1][j] = add(patch[1][j], patch[2][j]);
        half[2][j] = subtract(patch[2][j], patch[1][j]);
        half[3][j] = subtract(patch[1][j], patch[3][j]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        result[i][0] = subtract(half[i][0], half[i][2]);
        result[i][1] = add(half[i][1], half[i][2]);
        result[i][2] = subtract(half[i][2], half[i][1]);
        result[i][3] = subtract(half[i][1], half[i][3]);
    }
}

/* A g A^T for the 2x2 gradients of `tile`, of 16 channels from `channel` on. */
INLINE void transform_gradient(const bfloat16 *gradient, Tile tile, int64_t channel, int64_t height, int64_t width,
                               int64_t channels, lanes result[4][4]) {
    __mmask16 mask = first_lanes(channels - channel);
    __mmask16 right = tile.column + 1 < width ? mask : 0, below = tile.row + 1 < height ? mask : 0;
    const bfloat16 *from =
        gradient + ((tile.picture * height + tile.row) * width + tile.column) * channels + channel;
    const bfloat16 *next = from + width * channels;
    lanes a = load(from, mask), b = load(from + channels, right);
    lanes c = load(next, below), d = load(next + channels, right & below);
    lanes half[4][2] = {
        {a, b}, {add(a, c), add(b, d)}, {subtract(a, c), subtract(b, d)}, {subtract(zeros(), c), subtract(zeros(), d)}};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        result[i][0] = half[i][0];
        result[i][1] = add(half[i][0], half[i][1]);
        result[i][2] = subtract(half[i][0], half[i][1]);
        result[i][3] = subtract(zeros(), half[i][1]);
    }
}

/* sums (rows x 16 columns) = or += left times right, whose items are pairs: one of `left` against 16 of `right`. */
INLINE void product(const uint32_t *left, int64_t left_row, int64_t left_step, const uint32_t *right,
                    int64_t right_step, float *sums, int64_t sums_row, int64_t steps, const int rows,
                    const int columns, const int more) {
    lanes total[ROWS][COLUMNS];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++)
            total[r][c] = more ? _mm512_loadu_ps(sums + r * sums_row + c * LANES) : zeros();
    for (int64_t step = 0; step < steps; step++) {
        __m512i operand[COLUMNS];
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) operand[c] = _mm512_loadu_si512(right + step * right_step + c * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            __m512i factor = _mm512_set1_epi32((int)left[r * left_row + step * left_step]);
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++)
                total[r][c] = _mm512_dpbf16_ps(total[r][c], (__m512bh)factor, (__m512bh)operand[c]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) _mm512_storeu_ps(sums + r * sums_row + c * LANES, total[r][c]);
}

/* The same with sizes known only now. Each pair of sizes is compiled for itself, so that the sums stay in registers. */
#define SIZE(r, c)                                                                                              \
    case 8 * (r) + (c):                                                                                         \
        product(left, left_row, left_step, right, right_step, sums, sums_row, steps, r, c, more);               \
        break;
#define SIZES(r) SIZE(r, 1) SIZE(r, 2) SIZE(r, 3) SIZE(r, 4)
#define PRODUCT(name, sum_is_kept)                                                                              \
    static void name(const uint32_t *left, int64_t left_row, int64_t left_step, const uint32_t *right,          \
                     int64_t right_step, float *sums, int64_t sums_row, int64_t steps, int64_t rows,            \
                     int64_t columns) {                                                                         \
        enum { more = sum_is_kept };                                                                            \
        switch (8 * rows + columns) { SIZES(1) SIZES(2) SIZES(3) SIZES(4) SIZES(5) SIZES(6) }                   \
    }
PRODUCT(set_products, 0)
PRODUCT(add_products, 1)

/* Bytes that each thread needs to work in. */
int64_t winograd_scratch(int64_t channels_in, int64_t channels_out) {
    int64_t in = round_up(channels_in, LANES), out = round_up(channels_out, LANES);
    int64_t forward = PLACES * TILES * (in * (int64_t)sizeof(bfloat16) + WIDTH * (int64_t)sizeof(float));
    int64_t backward = PLACES * PAIRS * (in + out) * (int64_t)sizeof(uint32_t);
    return forward > backward ? forward : backward;
}

/* Items of the transformed weights. */
int64_t winograd_weight_items(int64_t channels_in, int64_t channels_out) {
    return PLACES * channels_in * round_up(channels_out, LANES);
}

/* G w G^T as the products want it: (place, pair of channels in, channel out, channel of the pair).

   weights: (channels_out, channels_in, 3, 3); with `turned` (channels_in, channels_out, 3, 3), turned by half a turn.
   channels_in is even; beyond channels_out it is filled with zeros up to whole lanes. */
void winograd_weights(const float *weights, bfloat16 *result, int64_t channels_in, int64_t channels_out,
                      int64_t turned, int64_t threads) {
    int64_t padded = round_up(channels_out, LANES);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t in = 0; in < channels_in; in++)
        for (int64_t out = 0; out < padded; out++) {
            float half[4][3];
            for (int j = 0; j < 3; j++) {
                float w[3] = {0, 0, 0};
                for (int i = 0; i < 3 && out < channels_out; i++)
                    w[i] = turned ? weights[(in * channels_out + out) * 9 + 8 - 3 * i - j]
                                  : weights[(out * channels_in + in) * 9 + 3 * i + j];
                half[0][j] = w[0];
                half[1][j] = (w[0] + w[1] + w[2]) / 2;
                half[2][j] = (w[0] - w[1] + w[2]) / 2;
                half[3][j] = w[2];
            }
            for (int i = 0; i < 4; i++) {
                float *w = half[i];
                float row[4] = {w[0], (w[0] + w[1] + w[2]) / 2, (w[0] - w[1] + w[2]) / 2, w[2]};
                for (int j = 0; j < 4; j++) {
                    int64_t pair = (4 * i + j) * (channels_in / 2) + in / 2;
                    store(result + (pair * padded + out) * 2 + in % 2, 1, _mm512_set1_ps(row[j]));
                }
            }
        }
}

/* images (pictures, height, width, channels_in), weights from winograd_weights -> results, with channels_out. */
void winograd_convolution(const bfloat16 *images, const bfloat16 *weights, bfloat16 *results, int64_t pictures,
                          int64_t height, int64_t width, int64_t channels_in, int64_t channels_out, char *scratch,
                          int64_t threads) {
    int64_t padded = round_up(channels_out, LANES), steps = channels_in / 2;
    int64_t tiles = tiles_of(pictures, height, width), blocks = (tiles + TILES - 1) / TILES;
    int64_t own = winograd_scratch(channels_in, channels_out), plane = TILES * channels_in;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t thread = 0; thread < threads; thread++) {
        float *sums = (float *)(scratch + thread * own);                     /* (place, tile, WIDTH) */
        bfloat16 *patches = (bfloat16 *)(sums + PLACES * TILES * WIDTH);     /* (place, tile, channels_in) */
        for (int64_t block = thread * blocks / threads; block < (thread + 1) * blocks / threads; block++) {
            int64_t first = block * TILES, count = smaller(TILES, tiles - first);
            for (int64_t t = 0; t < count; t++) {
                Tile tile = tile_at(first + t, height, width);
                for (int64_t channel = 0; channel < channels_in; channel += LANES) {
                    lanes patch[4][4];
                    transform_patch(images, tile, channel, height, width, channels_in, patch);
                    for (int k = 0; k < PLACES; k++)
                        store(patches + k * plane + t * channels_in + channel, first_lanes(channels_in - channel),
                              patch[k / 4][k % 4]);
                }
            }
            for (int64_t start = 0; start < padded; start += WIDTH) {
                int64_t columns = smaller(COLUMNS, (padded - start) / LANES);
                for (int k = 0; k < PLACES; k++) {
                    const uint32_t *right = (const uint32_t *)weights + k * steps * padded + start;
                    for (int64_t t = 0; t < count; t += ROWS)
                        set_products((const uint32_t *)(patches + k * plane + t * channels_in), steps, 1, right, padded,
                                     sums + (k * TILES + t) * WIDTH, WIDTH, steps, smaller(ROWS, count - t), columns);
                }
                for (int64_t t = 0; t < count; t++) {
                    Tile tile = tile_at(first + t, height, width);
                    bfloat16 *to = results + ((tile.picture * height + tile.row) * width + tile.column) * channels_out;
                    for (int64_t channel = start; channel < start + columns * LANES; channel += LANES) {
                        __mmask16 mask = first_lanes(channels_out - channel);
                        __mmask16 right = tile.column + 1 < width ? mask : 0, below = tile.row + 1 < height ? mask : 0;
                        const float *from = sums + t * WIDTH + channel - start;
                        lanes half[2][4];
#pragma GCC unroll 4
                        for (int j = 0; j < 4; j++) {
                            lanes m[4];
#pragma GCC unroll 4
                            for (int i = 0; i < 4; i++) m[i] = _mm512_loadu_ps(from + (4 * i + j) * TILES * WIDTH);
                            half[0][j] = add(add(m[0], m[1]), m[2]);
                            half[1][j] = subtract(subtract(m[1], m[2]), m[3]);
                        }
                        bfloat16 *upper = to + channel, *lower = upper + width * channels_out;
                        store(upper, mask, add(add(half[0][0], half[0][1]), half[0][2]));
                        store(upper + channels_out, right, subtract(subtract(half[0][1], half[0][2]), half[0][3]));
                        store(lower, below, add(add(half[1][0], half[1][1]), half[1][2]));
                        store(lower + channels_out, right & below,
                              subtract(subtract(half[1][1], half[1][2]), half[1][3]));
                    }
                }
            }
        }
    }
}

/* Side by side in 32 bits: what the product takes as a pair. */
INLINE __m512i paired(lanes first, lanes second) {
    __m512i low = _mm512_cvtepu16_epi32(narrow(first)), high = _mm512_cvtepu16_epi32(narrow(second));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* G^T (sum over threads) G -> (channels_out, channels_in, 3, 3). */
static void sum_weight_gradients(const float *sums, float *result, int64_t channels_in, int64_t channels_out,
                                 int64_t threads) {
    int64_t padded = round_up(channels_out, LANES), plane = channels_in * padded;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t in = 0; in < channels_in; in++)
        for (int64_t out = 0; out < channels_out; out++) {
            float total[4][4], half[3][4];
            for (int k = 0; k < PLACES; k++) {
                total[k / 4][k % 4] = 0;
                for (int64_t thread = 0; thread < threads; thread++)
                    total[k / 4][k % 4] += sums[(thread * PLACES + k) * plane + in * padded + out];
            }
            for (int j = 0; j < 4; j++) {
                half[0][j] = total[0][j] + (total[1][j] + total[2][j]) / 2;
                half[1][j] = (total[1][j] - total[2][j]) / 2;
                half[2][j] = (total[1][j] + total[2][j]) / 2 + total[3][j];
            }
            for (int i = 0; i < 3; i++) {
                float *to = result + (out * channels_in + in) * 9 + 3 * i;
                to[0] = half[i][0] + (half[i][1] + half[i][2]) / 2;
                to[1] = (half[i][1] - half[i][2]) / 2;
                to[2] = (half[i][1] + half[i][2]) / 2 + half[i][3];
            }
        }
}

/* The gradient of the weights from images (pictures, height, width, channels_in) and that of the results.

   sums: winograd_weight_items floats a thread to work in. result: (channels_out, channels_in, 3, 3). */
void winograd_weight_gradient(const bfloat16 *images, const bfloat16 *gradient, float *sums, float *result,
                              int64_t pictures, int64_t height, int64_t width, int64_t channels_in,
                              int64_t channels_out, char *scratch, int64_t threads) {
    int64_t in_padded = round_up(channels_in, LANES), padded = round_up(channels_out, LANES);
    int64_t tiles = tiles_of(pictures, height, width), block_tiles = 2 * PAIRS;
    int64_t blocks = (tiles + block_tiles - 1) / block_tiles;
    int64_t own = winograd_scratch(channels_in, channels_out), items = winograd_weight_items(channels_in, channels_out);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t thread = 0; thread < threads; thread++) {
        uint32_t *patches = (uint32_t *)(scratch + thread * own);     /* (place, pair of tiles, channel in) */
        uint32_t *gradients = patches + PLACES * PAIRS * in_padded;   /* (place, pair of tiles, channel out) */
        float *mine = sums + thread * items;                          /* (place, channel in, channel out) */
        memset(mine, 0, items * sizeof(float));
        for (int64_t block = thread * blocks / threads; block < (thread + 1) * blocks / threads; block++) {
            int64_t first = block * block_tiles, count = smaller(block_tiles, tiles - first);
            for (int64_t t = 0; t < count; t += 2) {
                Tile tile = tile_at(first + t, height, width), other = tile_at(first + t + 1, height, width);
                int both = t + 1 < count;
                lanes one[4][4], two[4][4];
                memset(two, 0, sizeof two);
                for (int64_t channel = 0; channel < channels_in; channel += LANES) {
                    transform_patch(images, tile, channel, height, width, channels_in, one);
                    if (both) transform_patch(images, other, channel, height, width, channels_in, two);
                    for (int k = 0; k < PLACES; k++)
                        _mm512_storeu_si512(patches + (k * PAIRS + t / 2) * in_padded + channel,
                                            paired(one[k / 4][k % 4], two[k / 4][k % 4]));
                }
                for (int64_t channel = 0; channel < channels_out; channel += LANES) {
                    transform_gradient(gradient, tile, channel, height, width, channels_out, one);
                    if (both) transform_gradient(gradient, other, channel, height, width, channels_out, two);
                    for (int k = 0; k < PLACES; k++)
                        _mm512_storeu_si512(gradients + (k * PAIRS + t / 2) * padded + channel,
                                            paired(one[k / 4][k % 4], two[k / 4][k % 4]));
                }
            }
            for (int k = 0; k < PLACES; k++)
                for (int64_t start = 0; start < padded; start += WIDTH)
                    for (int64_t in = 0; in < channels_in; in += ROWS)
                        add_products(patches + k * PAIRS * in_padded + in, 1, in_padded,
                                     gradients + k * PAIRS * padded + start, padded,
                                     mine + (k * channels_in + in) * padded + start, padded, (count + 1) / 2,
                                     smaller(ROWS, channels_in - in), smaller(COLUMNS, (padded - start) / LANES));
        }
    }
    sum_weight_gradients(sums, result, channels_in, channels_out, threads);
}
