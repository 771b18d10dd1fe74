/* Batch norm, ReLU and, where one follows, the maximum over 2x2 places in one pass; bfloat16, channels last.

   Step by step each of them reads and writes all activations, and batch norm reads them three times forward and twice
   backward. Here they are read twice forward, for the statistics and for the result, and twice backward. What ReLU let
   through is found again from the activations before it.

   Sums are taken over blocks of rows and added up in their order: they do not depend on the number of threads. */

#include "lanes.h"

enum { BLOCK = 512, GROUP = 4 }; /* rows of a block; groups of 16 channels whose sums stay in registers */

int64_t norm_relu_blocks(int64_t rows) { return (rows + BLOCK - 1) / BLOCK; }

/* The sums over blocks (blocks, 2, channels) -> (2, channels). */
static void add_blocks(const float *blocks, double *result, int64_t number, int64_t channels) {
    for (int64_t k = 0; k < 2 * channels; k++) result[k] = 0;
    for (int64_t block = 0; block < number; block++)
        for (int64_t k = 0; k < 2 * channels; k++) result[k] += blocks[block * 2 * channels + k];
}

/* Sums of x - shift and of its square over rows (rows, channels) -> (2, channels).

   shift: (channels,), near the mean, so that the squares do not drown the variance.
   blocks: norm_relu_blocks times 2 times channels floats to work in. */
void norm_relu_moments(const bfloat16 *x, const float *shift, float *blocks, double *result, int64_t rows,
                       int64_t channels, int64_t threads) {
    int64_t number = norm_relu_blocks(rows);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t block = 0; block < number; block++)
        for (int64_t start = 0; start < channels; start += GROUP * LANES) {
            lanes sum[GROUP], square[GROUP], middle[GROUP];
            __mmask16 mask[GROUP];
#pragma GCC unroll 4
            for (int k = 0; k < GROUP; k++) {
                int64_t left = channels - start - k * LANES;
                mask[k] = left > 0 ? first_lanes(left) : 0;
                middle[k] = _mm512_maskz_loadu_ps(mask[k], shift + start + k * LANES);
                sum[k] = square[k] = zeros();
            }
            int64_t end = smaller((block + 1) * BLOCK, rows);
            for (int64_t row = block * BLOCK; row < end; row++)
#pragma GCC unroll 4
                for (int k = 0; k < GROUP; k++) {
                    lanes value = subtract(load(x + row * channels + start + k * LANES, mask[k]), middle[k]);
                    sum[k] = add(sum[k], value);
                    square[k] = _mm512_fmadd_ps(value, value, square[k]);
                }
            float *to = blocks + block * 2 * channels + start;
#pragma GCC unroll 4
            for (int k = 0; k < GROUP; k++) {
                _mm512_mask_storeu_ps(to + k * LANES, mask[k], sum[k]);
                _mm512_mask_storeu_ps(to + channels + k * LANES, mask[k], square[k]);
            }
        }
    add_blocks(blocks, result, number, channels);
}

/* Of two operands of which one is no number the processor returns the second: a diverged run must stay visible. */
INLINE lanes positive_part(lanes value) { return _mm512_max_ps(zeros(), value); }

/* max(0, scale x + shift) for x (rows, channels). */
void norm_relu(const bfloat16 *x, const float *scale, const float *shift, bfloat16 *result, int64_t rows,
               int64_t channels, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < channels; c += LANES) {
            __mmask16 mask = first_lanes(channels - c);
            lanes a = _mm512_maskz_loadu_ps(mask, scale + c), b = _mm512_maskz_loadu_ps(mask, shift + c);
            lanes value = _mm512_fmadd_ps(load(x + row * channels + c, mask), a, b);
            store(result + row * channels + c, mask, positive_part(value));
        }
}

/* The maximum of max(0, scale x + shift) over 2x2 places of x (pictures, height, width, channels).

   best: the x that it came from; place: which of the four that was. Both of the result's shape. */
void norm_relu_maximum(const bfloat16 *x, const float *scale, const float *shift, bfloat16 *result, bfloat16 *best,
                       uint8_t *place, int64_t pictures, int64_t height, int64_t width, int64_t channels,
                       int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < pictures * (height / 2); row++)
        for (int64_t column = 0; column < width / 2; column++) {
            const bfloat16 *from = x + (2 * row * width + 2 * column) * channels;
            int64_t to = (row * (width / 2) + column) * channels;
            for (int64_t c = 0; c < channels; c += LANES) {
                __mmask16 mask = first_lanes(channels - c);
                lanes a = _mm512_maskz_loadu_ps(mask, scale + c), b = _mm512_maskz_loadu_ps(mask, shift + c);
                lanes chosen = load(from + c, mask), most = _mm512_fmadd_ps(chosen, a, b);
                __m512i which = _mm512_setzero_si512();
#pragma GCC unroll 3
                for (int k = 1; k < 4; k++) {
                    lanes x_k = load(from + ((k / 2) * width + k % 2) * channels + c, mask);
                    lanes value = _mm512_fmadd_ps(x_k, a, b);
                    __mmask16 more = _mm512_cmp_ps_mask(value, most, _CMP_GT_OQ) |
                                     _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
                    most = _mm512_mask_mov_ps(most, more, value);
                    chosen = _mm512_mask_mov_ps(chosen, more, x_k);
                    which = _mm512_mask_mov_epi32(which, more, _mm512_set1_epi32(k));
                }
                store(result + to + c, mask, positive_part(most));
                store(best + to + c, mask, chosen);
                _mm_mask_storeu_epi8(place + to + c, mask, _mm512_cvtepi32_epi8(which));
            }
        }
}

/* What of a gradient came through the ReLU. */
INLINE lanes through(lanes gradient, lanes x, lanes scale, lanes shift) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_fmadd_ps(x, scale, shift), zeros(), _CMP_GT_OQ), gradient);
}

/* Sums over rows of the gradient g before the ReLU and of g (x - mean) -> (2, channels); blocks as above. */
void norm_relu_gradient_sums(const bfloat16 *gradient, const bfloat16 *x, const float *scale, const float *shift,
                             const float *mean, float *blocks, double *result, int64_t rows, int64_t channels,
                             int64_t threads) {
    int64_t number = norm_relu_blocks(rows);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t block = 0; block < number; block++)
        for (int64_t start = 0; start < channels; start += GROUP * LANES) {
            lanes sum[GROUP], moment[GROUP], a[GROUP], b[GROUP], middle[GROUP];
            __mmask16 mask[GROUP];
#pragma GCC unroll 4
            for (int k = 0; k < GROUP; k++) {
                int64_t left = channels - start - k * LANES, c = start + k * LANES;
                mask[k] = left > 0 ? first_lanes(left) : 0;
                a[k] = _mm512_maskz_loadu_ps(mask[k], scale + c);
                b[k] = _mm512_maskz_loadu_ps(mask[k], shift + c);
                middle[k] = _mm512_maskz_loadu_ps(mask[k], mean + c);
                sum[k] = moment[k] = zeros();
            }
            int64_t end = smaller((block + 1) * BLOCK, rows);
            for (int64_t row = block * BLOCK; row < end; row++)
#pragma GCC unroll 4
                for (int k = 0; k < GROUP; k++) {
                    int64_t at = row * channels + start + k * LANES;
                    lanes value = load(x + at, mask[k]);
                    lanes g = through(load(gradient + at, mask[k]), value, a[k], b[k]);
                    sum[k] = add(sum[k], g);
                    moment[k] = _mm512_fmadd_ps(g, subtract(value, middle[k]), moment[k]);
                }
            float *to = blocks + block * 2 * channels + start;
#pragma GCC unroll 4
            for (int k = 0; k < GROUP; k++) {
                _mm512_mask_storeu_ps(to + k * LANES, mask[k], sum[k]);
                _mm512_mask_storeu_ps(to + channels + k * LANES, mask[k], moment[k]);
            }
        }
    add_blocks(blocks, result, number, channels);
}

/* scale g + slope x + offset, the gradient of x (rows, channels). */
void norm_relu_gradient(const bfloat16 *gradient, const bfloat16 *x, const float *scale, const float *shift,
                        const float *slope, const float *offset, bfloat16 *result, int64_t rows, int64_t channels,
                        int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < channels; c += LANES) {
            __mmask16 mask = first_lanes(channels - c);
            int64_t at = row * channels + c;
            lanes a = _mm512_maskz_loadu_ps(mask, scale + c), value = load(x + at, mask);
            lanes g = through(load(gradient + at, mask), value, a, _mm512_maskz_loadu_ps(mask, shift + c));
            lanes rest = _mm512_fmadd_ps(value, _mm512_maskz_loadu_ps(mask, slope + c),
                                         _mm512_maskz_loadu_ps(mask, offset + c));
            store(result + at, mask, _mm512_fmadd_ps(g, a, rest));
        }
}

/* The same through norm_relu_maximum: gradient, best and place are of its result's shape. */
void norm_relu_maximum_gradient(const bfloat16 *gradient, const bfloat16 *best, const uint8_t *place,
                                const bfloat16 *x, const float *scale, const float *shift, const float *slope,
                                const float *offset, bfloat16 *result, int64_t pictures, int64_t height,
                                int64_t width, int64_t channels, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < pictures * (height / 2); row++)
        for (int64_t column = 0; column < width / 2; column++) {
            int64_t at = (row * (width / 2) + column) * channels;
            for (int64_t c = 0; c < channels; c += LANES) {
                __mmask16 mask = first_lanes(channels - c);
                lanes a = _mm512_maskz_loadu_ps(mask, scale + c), b = _mm512_maskz_loadu_ps(mask, shift + c);
                lanes per_x = _mm512_maskz_loadu_ps(mask, slope + c), rest = _mm512_maskz_loadu_ps(mask, offset + c);
                lanes g = through(load(gradient + at + c, mask), load(best + at + c, mask), a, b);
                __m512i which = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, place + at + c));
#pragma GCC unroll 4
                for (int k = 0; k < 4; k++) {
                    int64_t there = ((2 * row + k / 2) * width + 2 * column + k % 2) * channels + c;
                    lanes base = _mm512_fmadd_ps(load(x + there, mask), per_x, rest);
                    __mmask16 here = _mm512_cmpeq_epi32_mask(which, _mm512_set1_epi32(k));
                    store(result + there, mask, _mm512_mask3_fmadd_ps(a, g, base, here));
                }
            }
        }
}
