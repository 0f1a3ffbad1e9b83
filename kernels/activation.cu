// Activations and gates, element by element. Memory is the limit: one value per thread and step, neighbouring threads
// on neighbouring values, and a grid that walks over the array so that its size never meets a launch limit.
#include "activation.cuh"

/// y = f(x)
extern "C" __global__ void activate_values(int activation, const float* x, float* y, size_t n) {
    for (size_t i = grid_index(); i < n; i += grid_step()) y[i] = activate(activation, x[i]);
}

/// dy := f'(x) dy
extern "C" __global__ void activate_backward(int activation, const float* x, float* dy, size_t n) {
    for (size_t i = grid_index(); i < n; i += grid_step()) dy[i] *= activation_slope(activation, x[i]);
}

/// y := f(gate) y
extern "C" __global__ void gate_values(int activation, const float* gate, float* y, size_t n) {
    for (size_t i = grid_index(); i < n; i += grid_step()) y[i] *= activate(activation, gate[i]);
}

/// d_gate = f'(gate) value dy, then dy := f(gate) dy
extern "C" __global__ void gate_backward(int activation, const float* gate, const float* value, float* dy,
                                         float* d_gate, size_t n) {
    for (size_t i = grid_index(); i < n; i += grid_step()) {
        d_gate[i] = activation_slope(activation, gate[i]) * value[i] * dy[i];
        dy[i] *= activate(activation, gate[i]);
    }
}
