// The activations and their derivatives, for activation.cu and the epilogue of matmul.cu.
#pragma once
#include "primitives.cuh"

/// As src/backend/cuda numbers them.
enum Activation : int { NO_ACTIVATION = -1, GELU = 0, GELU_TANH = 1, RELU = 2, SILU = 3 };

// √(8/π) and 0.044715 √(8/π): the tanh form of GELU is x σ(a x + b x³).
constexpr float TANH_LINEAR = 1.595769f;
constexpr float TANH_CUBIC = 0.07135481f;
constexpr float SQRT_HALF = 0.70710678f;
constexpr float NORMAL_DENSITY = 0.39894228f;

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float activate(int activation, float x) {
    switch (activation) {
        case GELU: return 0.5f * x * (1.0f + erff(x * SQRT_HALF));
        case GELU_TANH: return x * sigmoid(x * fmaf(TANH_CUBIC, x * x, TANH_LINEAR));
        case RELU: return fmaxf(x, 0.0f);
        case SILU: return x * sigmoid(x);
        default: return x;
    }
}

__device__ __forceinline__ float activation_slope(int activation, float x) {
    switch (activation) {
        case GELU: return 0.5f * (1.0f + erff(x * SQRT_HALF)) + x * expf(-0.5f * x * x) * NORMAL_DENSITY;
        case GELU_TANH: {
            float s = sigmoid(x * fmaf(TANH_CUBIC, x * x, TANH_LINEAR));
            return s + x * s * (1.0f - s) * fmaf(3.0f * TANH_CUBIC, x * x, TANH_LINEAR);
        }
        case RELU: return x > 0.0f ? 1.0f : 0.0f;
        case SILU: {
            float s = sigmoid(x);
            return s * fmaf(x, 1.0f - s, 1.0f);
        }
        default: return 1.0f;
    }
}
