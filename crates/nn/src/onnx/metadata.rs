use std::path::Path;

use prost::Message;

use super::proto::Entry;
use crate::NnError;
use crate::checkpoint::{self, CARD, ModelCard};

/// The key of the number of parameters.
pub(super) const PARAMETERS: &str = "parameters";

/// What the metadata of an exported network say of it.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxCard {
    /// The card.
    pub card: ModelCard,
    /// Number of trainable values of the network, of which the filters of the model are made.
    pub parameters: Option<usize>,
}

impl OnnxCard {
    /// Reads the metadata from the bytes of the ONNX model at `path`; `None` if it is of another maker.
    ///
    /// # Errors
    /// [`NnError::Checkpoint`] naming the file if its card cannot be read.
    pub fn of(path: &Path, bytes: &[u8]) -> Result<Option<Self>, NnError> {
        let Ok(MetadataProto { entries }) = MetadataProto::decode(bytes) else { return Ok(None) };
        let find = |key: &str| entries.iter().find(|entry| entry.key == key).map(|e| &*e.value);
        let Some(text) = find(CARD) else { return Ok(None) };
        let parameters = find(PARAMETERS).and_then(|text| text.parse().ok());
        Ok(Some(Self { card: checkpoint::card(path, text)?, parameters }))
    }
}

/// A `ModelProto` of which only the metadata are read.
#[derive(Clone, PartialEq, Message)]
struct MetadataProto {
    #[prost(message, repeated, tag = "14")]
    entries: Vec<Entry>,
}
