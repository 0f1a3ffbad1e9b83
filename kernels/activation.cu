// Activations and gates, element by element. Memory is the limit: four values per thread and step in one instruction,
// neighbouring threads on neighbouring values, and a grid that walks over the array so that its size never meets a launch
// limit.
#include "activation.cuh"

/// y = f(x)
extern "C" __global__ void activate_values(int activation, const float* x, float* y, size_t n) {
    walk(n, [=](size_t i, auto count) {
        combine<decltype(count)::VALUE>(x + i, y + i, [=](float from, float) { return activate(activation, from); });
    });
}

/// dy := f'(x) dy
extern "C" __global__ void activate_backward(int activation, const float* x, float* dy, size_t n) {
    walk(n, [=](size_t i, auto count) {
        combine<decltype(count)::VALUE>(x + i, dy + i,
                                        [=](float at, float d) { return d * activation_slope(activation, at); });
    });
}

/// y := f(gate) y
extern "C" __global__ void gate_values(int activation, const float* gate, float* y, size_t n) {
    walk(n, [=](size_t i, auto count) {
        combine<decltype(count)::VALUE>(gate + i, y + i,
                                        [=](float by, float value) { return value * activate(activation, by); });
    });
}

/// d_gate = f'(gate) value dy, then dy := f(gate) dy
extern "C" __global__ void gate_backward(int activation, const float* gate, const float* value, float* dy,
                                         float* d_gate, size_t n) {
    walk(n, [=](size_t i, auto count) {
        constexpr int N = decltype(count)::VALUE;
        Vector<N> by = load<N>(gate + i), values = load<N>(value + i), d = load<N>(dy + i);
#pragma unroll
        for (int e = 0; e < N; e++) {
            values.values[e] *= activation_slope(activation, by.values[e]) * d.values[e];
            d.values[e] *= activate(activation, by.values[e]);
        }
        store<N>(d_gate + i, values);
        store<N>(dy + i, d);
    });
}
