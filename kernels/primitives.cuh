// What the kernels are made of: warp and block sums, rounding to the tensor cores' formats, fragments, asynchronous
// copies. This is the only file with inline PTX; each such function has a second branch for the CPU emulator of the
// tests (tests/emulator), so that the very same kernels run without a GPU.
#pragma once

#ifdef __CUDACC__
#include <stdint.h>
/// Shared memory whose size the launch decides.
#define DYNAMIC_SHARED(T, name)                                      \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    T* name = reinterpret_cast<T*>(dynamic_shared)
#else
#include "emulator.h"
#endif

/// A number of 16 bits as it is stored, bfloat16 or f16.
struct Bits16 {
    uint16_t bits;
};

constexpr int WARP = 32;
constexpr uint32_t ALL_LANES = 0xffffffffu;

__device__ __forceinline__ int lane_index() { return threadIdx.x % WARP; }

__device__ __forceinline__ int warp_index() { return threadIdx.x / WARP; }

/// First element of this thread in a loop over a whole grid, and the step of that loop.
__device__ __forceinline__ size_t grid_index() { return size_t(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ __forceinline__ size_t grid_step() { return size_t(gridDim.x) * blockDim.x; }

/// N neighbouring floats that travel in one instruction; they start on as many bytes as they have.
template <int N>
struct alignas(4 * N) Vector {
    float values[N];
};

template <int N>
__device__ __forceinline__ Vector<N> load(const float* from) {
#ifndef __CUDACC__
    emulator::check_alignment(from, 4 * N);
#endif
    return *reinterpret_cast<const Vector<N>*>(from);
}

template <int N>
__device__ __forceinline__ void store(float* to, const Vector<N>& vector) {
#ifndef __CUDACC__
    emulator::check_alignment(to, 4 * N);
#endif
    *reinterpret_cast<Vector<N>*>(to) = vector;
}

/// y[i] = f(x[i], y[i]) for N neighbouring values.
template <int N, typename F>
__device__ __forceinline__ void combine(const float* x, float* y, F f) {
    Vector<N> from = load<N>(x), to = load<N>(y);
#pragma unroll
    for (int e = 0; e < N; e++) to.values[e] = f(from.values[e], to.values[e]);
    store<N>(y, to);
}

/// How many values a step of `walk` is for.
template <int N>
struct Count {
    static constexpr int VALUE = N;
};

/// Calls `f(i, count)` for the thread's share of n values: four neighbours at a time, single ones at the end.
template <typename F>
__device__ __forceinline__ void walk(size_t n, F f) {
    size_t whole = n / 4 * 4;
    for (size_t i = 4 * grid_index(); i < whole; i += 4 * grid_step()) f(i, Count<4>());
    for (size_t i = whole + grid_index(); i < n; i += grid_step()) f(i, Count<1>());
}

/// Sum over a warp, the same bits in every lane.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, offset));
    }
    return value;
}

/// Sum over a block, in every thread. `partial` is shared memory for one value per warp.
template <typename T>
__device__ __forceinline__ T block_sum(T value, T* partial) {
    value = warp_sum(value);
    __syncthreads();  // Readers of an earlier sum are done with `partial`.
    if (lane_index() == 0) partial[warp_index()] = value;
    __syncthreads();
    T sum = 0;
    for (int warp = 0; warp < int(blockDim.x) / WARP; warp++) sum += partial[warp];
    return sum;
}

__device__ __forceinline__ float block_max(float value, float* partial) {
    value = warp_max(value);
    __syncthreads();
    if (lane_index() == 0) partial[warp_index()] = value;
    __syncthreads();
    float largest = partial[0];
    for (int warp = 1; warp < int(blockDim.x) / WARP; warp++) largest = fmaxf(largest, partial[warp]);
    return largest;
}

__device__ __forceinline__ uint32_t float_bits(float value) { return __float_as_uint(value); }

__device__ __forceinline__ float bits_float(uint32_t bits) { return __uint_as_float(bits); }

/// The nearest TF32: a float with a 10-bit mantissa, in the bits of a float.
__device__ __forceinline__ uint32_t round_to_tf32(float value) {
#ifdef __CUDACC__
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
#else
    return emulator::round_to_tf32(value);
#endif
}

/// Two floats rounded to bfloat16: `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#ifdef __CUDACC__
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
#else
    return emulator::round_to_bf16(low) | uint32_t(emulator::round_to_bf16(high)) << 16;
#endif
}

/// Two floats rounded to f16: `low` in the lower half. Beyond 65504 they become infinite.
__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
#ifdef __CUDACC__
    uint32_t bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
#else
    return emulator::round_to_f16(low) | uint32_t(emulator::round_to_f16(high)) << 16;
#endif
}

/// `sum += a b` for a 16 x 8 tile of a and an 8 x 8 tile of b in TF32, fragments as PTX lays them out.
__device__ __forceinline__ void multiply_tf32(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulator::multiply_tf32(sum, a, b);
#endif
}

/// `sum += a b` for a 16 x 16 tile of a and a 16 x 8 tile of b in bfloat16.
__device__ __forceinline__ void multiply_bf16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulator::multiply_bf16(sum, a, b);
#endif
}

/// The same in f16.
__device__ __forceinline__ void multiply_f16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulator::multiply_f16(sum, a, b);
#endif
}

/// A fragment of floats in TF32: one number each, or, `PRECISE`, two whose sum it is to about 22 bits: the bits that TF32
/// has, and what is left, of which the tensor cores do not read the last bits.
template <bool PRECISE, int N>
struct Factor {
    uint32_t high[N], low[N];

    __device__ __forceinline__ void set(const uint32_t (&values)[N]) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            if constexpr (PRECISE) {
                high[i] = values[i] & 0xffffe000u;
                low[i] = float_bits(bits_float(values[i]) - bits_float(high[i]));
            } else {
                high[i] = round_to_tf32(bits_float(values[i]));
            }
        }
    }
};

/// `sum += a b` by as many TF32 products as the factors ask for, the small ones first. Tensor cores cut their sums off
/// towards zero, so a long sum shrinks: see `add_factors`.
template <bool PRECISE>
__device__ __forceinline__ void multiply_factors(float (&sum)[4], const Factor<PRECISE, 4>& a,
                                                 const Factor<PRECISE, 2>& b) {
    if constexpr (PRECISE) {
        multiply_tf32(sum, a.low, b.high);
        multiply_tf32(sum, a.high, b.low);
    }
    multiply_tf32(sum, a.high, b.high);
}

/// The same with the sum outside of the tensor cores where it is to be precise, rounded to nearest.
template <bool PRECISE>
__device__ __forceinline__ void add_factors(float (&sum)[4], const Factor<PRECISE, 4>& a, const Factor<PRECISE, 2>& b) {
    if constexpr (PRECISE) {
        float part[4] = {};
        multiply_factors(part, a, b);
#pragma unroll
        for (int e = 0; e < 4; e++) sum[e] += part[e];
    } else {
        multiply_factors(sum, a, b);
    }
}

/// Four 8 x 16-byte matrices from shared memory; lane `l` gives the address of row `l % 8` of matrix `l / 8`.
__device__ __forceinline__ void load_matrices(uint32_t (&fragment)[4], const void* row) {
#ifdef __CUDACC__
    uint32_t address = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address)
                 : "memory");
#else
    emulator::load_matrices(fragment, row, false);
#endif
}

/// The same for 16-bit values, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&fragment)[4], const void* row) {
#ifdef __CUDACC__
    uint32_t address = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address)
                 : "memory");
#else
    emulator::load_matrices(fragment, row, true);
#endif
}

/// Starts a copy of 16 bytes from global to shared memory; zeros, and nothing read, where not `inside`.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool inside) {
#ifdef __CUDACC__
    uint32_t address = uint32_t(__cvta_generic_to_shared(shared));
    int bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
#else
    emulator::copy_async(shared, global, 16, inside);
#endif
}

/// The same for 4 bytes: rows that do not start on 16 bytes.
__device__ __forceinline__ void copy_async_4(void* shared, const void* global, bool inside) {
#ifdef __CUDACC__
    uint32_t address = uint32_t(__cvta_generic_to_shared(shared));
    int bytes = inside ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
#else
    emulator::copy_async(shared, global, 4, inside);
#endif
}

/// Ends a group of copies.
__device__ __forceinline__ void copy_async_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emulator::copy_async_commit();
#endif
}

/// Waits until at most `PENDING` of this thread's groups are under way.
template <int PENDING>
__device__ __forceinline__ void copy_async_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#else
    emulator::copy_async_wait(PENDING);
#endif
}
