/* Sixteen channels at a time: bfloat16 in memory, float32 in registers. */

#ifndef ACTO_LANES_H
#define ACTO_LANES_H

#include <immintrin.h>
#include <stdint.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bfloat16; /* the upper half of a float32 */
typedef __m512 lanes;

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

/* Which lanes hold something, with `left` channels to go. */
INLINE __mmask16 first_lanes(int64_t left) { return left >= LANES ? 0xffff : (__mmask16)((1u << left) - 1); }

INLINE lanes zeros(void) { return _mm512_setzero_ps(); }
INLINE lanes add(lanes a, lanes b) { return _mm512_add_ps(a, b); }
INLINE lanes subtract(lanes a, lanes b) { return _mm512_sub_ps(a, b); }

/* Lanes outside `mask` are 0 and their memory is not touched. */
INLINE lanes load(const bfloat16 *from, __mmask16 mask) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE __m256i narrow(lanes values) { return (__m256i)_mm512_cvtneps_pbh(values); }
INLINE void store(bfloat16 *to, __mmask16 mask, lanes values) { _mm256_mask_storeu_epi16(to, mask, narrow(values)); }

#endif
