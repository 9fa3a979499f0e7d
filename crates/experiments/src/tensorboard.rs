//! Event files of TensorBoard: TFRecords of the few messages of tensorflow/core/util/event.proto that
//! scalars need. The crates that write them (tensorboard-rs, syntaxdot-summary) are no longer kept, so
//! the messages are declared here for prost.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.START`: what lies at this step and after it in older files does not count.
const START: i32 = 1;

/// An event file that grows.
pub(crate) struct EventFile(File);

impl EventFile {
    /// A new file in `folder`, whose events begin after `step`. Without `go_on` older event files of the
    /// folder are removed.
    pub(crate) fn create(folder: &Path, step: usize, go_on: bool) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        if !go_on {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().starts_with("events.out.tfevents.") {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        let name = format!("events.out.tfevents.{:.6}.steer3d", now());
        let mut file = Self(File::create(folder.join(name))?);
        let version = Some("brain.Event:2".into());
        file.write(&Event { wall_time: now(), file_version: version, ..Event::default() })?;
        if go_on {
            let session_log = Some(SessionLog { status: START });
            let step = step as i64 + 1;
            file.write(&Event { wall_time: now(), step, session_log, ..Event::default() })?;
        }
        Ok(file)
    }

    /// Values with their names at a step.
    pub(crate) fn scalars(&mut self, step: usize, scalars: &[(&str, f64)]) -> io::Result<()> {
        let value = |&(tag, value): &(&str, f64)| Scalar {
            tag: tag.into(),
            simple_value: Some(value as f32),
        };
        let summary = Some(Summary { value: scalars.iter().map(value).collect() });
        self.write(&Event { wall_time: now(), step: step as i64, summary, ..Event::default() })
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        self.0.write_all(&record(&event.encode_to_vec()))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Length, its checksum, content, its checksum.
fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let checksum = |bytes: &[u8]| masked(crc32c::crc32c(bytes)).to_le_bytes();
    [&length[..], &checksum(&length), content, &checksum(content)].concat()
}

/// As TensorFlow stores checksums of data that may hold checksums themselves.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_of_tensorflow() {
        // The first record of every event file that TensorFlow writes, but for its time.
        let version = Event { file_version: Some("brain.Event:2".into()), ..Event::default() };
        let expected = b"\x1a\x0dbrain.Event:2";
        assert_eq!(version.encode_to_vec(), expected);
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        let bytes = record(expected);
        assert_eq!(bytes[..8], 15u64.to_le_bytes());
        assert_eq!((bytes.len(), &bytes[12..27]), (8 + 4 + 15 + 4, &expected[..]));
    }

    #[test]
    fn values_come_back_and_a_zero_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path(), 0, false).unwrap();
        file.scalars(3, &[("loss", 0.0), ("rate", 0.5)]).unwrap();
        EventFile::create(folder.path(), 3, true).unwrap();
        let files = || fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path());
        assert_eq!(files().count(), 2);
        let bytes = fs::read(files().min().unwrap()).unwrap();
        let mut events = vec![];
        let mut at = 0;
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let content = &bytes[at + 12..at + 12 + length];
            assert_eq!(record(content), bytes[at..at + 16 + length]);
            events.push(Event::decode(content).unwrap());
            at += 16 + length;
        }
        assert_eq!(events.len(), 2);
        let values = &events[1].summary.as_ref().unwrap().value;
        let found: Vec<_> = values.iter().map(|v| (v.tag.as_str(), v.simple_value)).collect();
        assert_eq!((events[1].step, found), (3, vec![("loss", Some(0.0)), ("rate", Some(0.5))]));
        EventFile::create(folder.path(), 0, false).unwrap();
        assert_eq!(files().count(), 1);
    }
}
