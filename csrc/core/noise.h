// Normal noise from a counter, one block of four numbers at a time. netinterp_fast/ops/noise.py is the same in torch.
// All operations are exact or correctly rounded: no function of libm, which differs between platforms.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace netinterp_fast {

constexpr int kNoiseBlock = 4;

struct PhiloxKey {
  uint32_t words[2];
};

struct PhiloxWords {
  uint32_t words[kNoiseBlock];
};

struct NoiseBlock {
  float values[kNoiseBlock];
};

NIF_HD PhiloxKey philox_key(uint64_t seed) {
  return {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}};
}

NIF_HD PhiloxWords philox_counter(uint64_t block, uint32_t sample, uint32_t example) {
  return {{static_cast<uint32_t>(block), sample, example, static_cast<uint32_t>(block >> 32)}};
}

// Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
NIF_HD PhiloxWords philox(PhiloxWords counter, PhiloxKey key) {
  uint32_t c0 = counter.words[0], c1 = counter.words[1], c2 = counter.words[2], c3 = counter.words[3];
  uint32_t k0 = key.words[0], k1 = key.words[1];
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * c0, second = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(second >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(second);
    c2 = static_cast<uint32_t>(first >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(first);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

// The square root as IEEE has it.
NIF_HD float square_root(float value) {
#ifdef __CUDA_ARCH__
  return __fsqrt_rn(value);
#else
  return __builtin_sqrtf(value);
#endif
}

// The natural logarithm of a positive normal number: e log 2 + log m with m in [sqrt(1/2), sqrt(2)).
NIF_HD float log_of(float value) {
  int32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const int32_t exponent = (bits - 0x3F3504F3) >> 23;  // less the bits of sqrt(1/2)
  bits -= exponent * (1 << 23);
  float mantissa;
  memcpy(&mantissa, &bits, sizeof mantissa);
  const float t = (mantissa - 1.0f) / (mantissa + 1.0f);
  const float square = t * t;
  float series = square * (1.0f / 9) + 1.0f / 7;
  series = series * square + 1.0f / 5;
  series = series * square + 1.0f / 3;
  const float twice = t + t;
  const float log_mantissa = twice + twice * (square * series);
  const float wide = static_cast<float>(exponent);
  return wide * 0.693359375f + (wide * -2.12194440e-4f + log_mantissa);  // log 2 in two, the first product exact
}

// Of |x| <= pi / 4, by their Taylor series.
NIF_HD float sine_of(float x) {
  const float square = x * x;
  float sine = square * (1.0f / 362880) - 1.0f / 5040;
  sine = sine * square + 1.0f / 120;
  sine = sine * square + -1.0f / 6;
  return x + x * (square * sine);
}

NIF_HD float cosine_of(float x) {
  const float square = x * x;
  float cosine = square * (-1.0f / 3628800) + 1.0f / 40320;
  cosine = cosine * square + -1.0f / 720;
  cosine = cosine * square + 1.0f / 24;
  cosine = cosine * square + -0.5f;
  return cosine * square + 1.0f;
}

NIF_HD float with_sign(float value, uint32_t negative) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits ^= negative << 31;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// The transform of Box and Muller in two halves, so that a CPU kernel can take the roots of a vector between them.
NIF_HD float squared_radius(uint32_t word) {
  const float uniform = static_cast<float>(static_cast<int32_t>((word >> 8) + 1)) * 0x1p-24f;  // in (0, 1]
  return log_of(uniform) * -2.0f;
}

struct Direction {
  float x, y;
};

// The angle in quarter turns, from the upper 26 bits.
NIF_HD Direction direction(uint32_t word) {
  const float fraction = static_cast<float>(static_cast<int32_t>(word >> 6 & 0xFFFFFF)) * 0x1p-24f - 0.5f;
  const float angle = fraction * 1.57079632679489662f;
  const float sine = sine_of(angle), cosine = cosine_of(angle);
  const uint32_t half = word >> 31, odd = word >> 30 & 1;
  return {with_sign(odd ? sine : cosine, half ^ odd), with_sign(odd ? cosine : sine, half)};
}

NIF_HD NoiseBlock noise_block(uint64_t block, uint32_t sample, uint32_t example, PhiloxKey key) {
  const PhiloxWords random = philox(philox_counter(block, sample, example), key);
  NoiseBlock noise;
  for (int pair = 0; pair < kNoiseBlock; pair += 2) {
    const float radius = square_root(squared_radius(random.words[pair]));
    const Direction to = direction(random.words[pair + 1]);
    noise.values[pair] = radius * to.x;
    noise.values[pair + 1] = radius * to.y;
  }
  return noise;
}

}  // namespace netinterp_fast
