//! Networks that no memory could hold are refused before anything of them is made.

#[path = "common/card.rs"]
mod card;

use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use steer3d_files::memory::set_limit;
use steer3d_nn::onnx::export;
use steer3d_nn::{ModelConfig, Network, NnError};

const STEERABLE: &str = r#"
kind = "steerable"
input = "1x0"
classes = 2
[kernel]
family = "gaussian_jets"
order = 2
[[blocks]]
fields = "2x0+1x1"
size = 3
[[blocks]]
fields = "2x0"
size = 3
"#;

const PLAIN: &str = r#"
kind = "plain"
channels = 1
classes = 2
[[blocks]]
channels = 2
size = 3
"#;

/// What building the network says; tests share a budget of 256 MiB.
fn built(text: &str) -> Result<Network, NnError> {
    set_limit(256 << 20);
    let start = Instant::now();
    let built = ModelConfig::from_toml(text)
        .and_then(|model| Network::new(&model, 0, DType::F32, &Device::Cpu));
    assert!(start.elapsed() < Duration::from_secs(20), "{text}");
    built
}

#[test]
fn a_network_larger_than_the_memory_is_refused() {
    let shells = "[kernel]\nfamily = \"gaussian_shells\"\nsigma = 0.6\ncutoff = \"none\"\n";
    let radii = "[kernel]\nfamily = \"radii\"\n";
    let product = "nonlinearity = \"tensor_product\"\n";
    let jets = "[kernel]\nfamily = \"gaussian_jets\"\norder = 2\n";
    let many = ["1x0"; 250].join("+");
    let large = [
        STEERABLE.replace("classes = 2", "classes = 9223372036854775807"),
        STEERABLE.replace("2x0+1x1", "32768x0+32768x1").replace("\"2x0\"", "\"65536x0\""),
        STEERABLE.replace("2x0+1x1", "65536x0").replace("size = 3", "size = 31"),
        STEERABLE.replace("2x0+1x1", "1x10").replace(jets, radii).replace("size = 3", "size = 31"),
        STEERABLE.replace("2x0+1x1", "9x10").replace(jets, shells).replace("size = 3", "size = 31"),
        STEERABLE
            .replace("2x0+1x1", &many)
            .replace("\"2x0\"", &format!("\"{many}\""))
            .replace("size = 3", "size = 7")
            .replace("[kernel]", "nonlinearity = \"norm\"\n[kernel]"),
        STEERABLE
            .replace("2x0+1x1", "1024x0+1024x1+1024x2")
            .replace("[kernel]", &format!("{product}[kernel]")),
        STEERABLE.replace("size = 3", "size = 31\nresidual = true\nrepeat = 400"),
        PLAIN.replace("classes = 2", "classes = 9223372036854775807"),
        PLAIN.replace("classes = 2", "classes = 4611686018427387905"),
        PLAIN.replace("channels = 2", "channels = 65536\nrepeat = 2"),
        PLAIN
            .replace("channels = 1", "channels = 65536")
            .replace("channels = 2", "channels = 65536"),
        PLAIN
            .replace("classes = 2", "classes = 2\nsymmetry = \"octahedral\"")
            .replace("channels = 2", "channels = 1000\nrepeat = 2"),
    ];
    for text in large {
        let found = built(&text);
        assert!(matches!(found, Err(NnError::Memory { .. })), "{:?}\n{text}", found.err());
    }
    for text in [STEERABLE, PLAIN] {
        built(text).unwrap();
    }
}

/// A separable convolution needs no filter; its export does.
#[test]
fn filters_larger_than_the_memory_are_refused() {
    let wide = STEERABLE.replace("2x0+1x1", "600x0").replace("size = 3", "size = 5");
    let network = built(&wide.replace("\"2x0\"", "\"600x0\"")).unwrap();
    let found = export(&network, &card::card(network.config()));
    assert!(matches!(found, Err(NnError::Memory { .. })), "{:?}", found.err());
}
