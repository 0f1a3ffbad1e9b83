// The words of CUDA C++ that the kernels use, over emulator.h.
#pragma once

#define threadIdx (::emulator::fiber().thread)
#define blockIdx (::emulator::block().index)
#define blockDim (::emulator::block().block_size)
#define gridDim (::emulator::block().grid_size)
#define __syncthreads() ::emulator::synchronize_block(__FILE__, __LINE__)

using std::max;
using std::min;

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source) {
    return emulator::shuffle(mask, value, source % emulator::WARP_SIZE);
}

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return emulator::shuffle(mask, value, emulator::fiber().lane ^ bits);
}

namespace emulator {
/// Reads and writes of several words at once must start on their size.
inline void check_alignment(const void* address, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(address) % bytes) fail("a vector of floats does not start on its size");
}
}  // namespace emulator

inline uint32_t __float_as_uint(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float __uint_as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
