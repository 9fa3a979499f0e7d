//! Differentiable candle operations on N,C,D,H,W tensors: convolution, pooling, gates and norms.
