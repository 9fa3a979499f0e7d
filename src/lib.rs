//! SO(3)-steerable 3D convolutional networks for voxel volumes, and a tool that measures how far
//! a model survives rotation.
//!
//! This crate re-exports the crates of the workspace; [`prelude`] has what most programs need.
//! Conventions (harmonics, Wigner-D, axis order) stand in [`so3`].

pub use steer3d_dataset as dataset;
pub use steer3d_eval as eval;
pub use steer3d_experiments as experiments;
pub use steer3d_files as files;
pub use steer3d_formats as formats;
pub use steer3d_kernels as kernels;
pub use steer3d_nn as nn;
pub use steer3d_ops as ops;
pub use steer3d_predict as predict;
pub use steer3d_ranks as ranks;
pub use steer3d_report as report;
pub use steer3d_so3 as so3;
pub use steer3d_train as train;
pub use steer3d_volume as volume;

/// The programs of the documentation, which `cargo test --doc` compiles and runs.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/src/guide/library.md")]
    struct Library;
    #[doc = include_str!("../docs/src/tutorials/layer.md")]
    struct Layer;
    #[doc = include_str!("../docs/src/tutorials/network.md")]
    struct Network;
}

/// The types and functions that most programs need, also by use: layers, training, evaluation.
pub mod prelude {
    pub use candle_core::{DType, Device, Tensor};
    pub use steer3d_dataset::{Dataset, Split};
    pub use steer3d_so3::{Irreps, Rotation, Stream, cube_group, random_rotations};
    pub use steer3d_volume::{Grid, Interpolation, Volume, rotate};

    pub use self::evaluation::{FieldMap, Predictor, Protocol, assert_equivariant, evaluate};
    pub use self::layers::*;
    pub use self::training::{TrainConfig, TrainEvent, train};

    /// Layers, and the networks that are made of them.
    pub mod layers {
        pub use candle_core::{DType, Device, Tensor};
        pub use steer3d_kernels::Family;
        pub use steer3d_nn::layers::{
            ConvConfig, FieldBatchNorm, FieldDropout, FieldLayer, Gate, GaussianPool,
            InvariantPool, Linear, NormNonlinearity, RadialConv3d, RadialPerceptron,
            SteerableConv3d,
        };
        pub use steer3d_nn::{
            Field, Mode, ModelConfig, Network, Params, PlainConfig, Scope, SteerableBlock,
            SteerableConfig,
        };
        pub use steer3d_so3::Irreps;
    }

    /// Training of networks on datasets, and comparisons of networks.
    pub mod training {
        pub use candle_core::{DType, Device};
        pub use steer3d_dataset::{Dataset, Split, Turns};
        pub use steer3d_experiments::{
            Architecture, Budget, CompareConfig, EvaluationSettings, Experiment, Prototypes,
            Session, compare, train_into,
        };
        pub use steer3d_nn::{ModelConfig, Network};
        pub use steer3d_train::{
            Checkpoints, LossConfig, Monitor, OptimiserConfig, Schedule, StateFolder, TrainConfig,
            TrainEvent, Trained, resume, train,
        };
    }

    /// Measurements on rotated and moved volumes.
    pub mod evaluation {
        pub use steer3d_dataset::{Dataset, Split};
        pub use steer3d_eval::equivariance::{FieldMap, assert_equivariant};
        pub use steer3d_eval::{
            AnswerKind, NetworkPredictor, PointGroup, Predictor, Protocol, Report, Search, Source,
            evaluate,
        };
        pub use steer3d_report::{Evaluation, terminal, write_report};
        pub use steer3d_so3::{Rotation, cube_group, random_rotations};
        pub use steer3d_volume::Interpolation;
    }
}
