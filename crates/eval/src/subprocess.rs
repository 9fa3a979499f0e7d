//! Models of any kind, as a program that answers on its standard output.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::predictor::{AnswerKind, ModelError, Predictor};
use crate::spec::AnswerSpec;

/// Bytes in which the first line of an answer must end.
const HEADER_MAX: u64 = 4096;

/// What can go wrong with the program behind a [`SubprocessPredictor`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubprocessError {
    /// It ended, or closed its input or output, before it had answered.
    #[error("`{command}` ended before it answered ({status}); its own messages say why")]
    Ended {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
    },
    /// Its answer is not of the agreed form.
    #[error(
        "`{command}` answered {found}, expected the line {expected} and then the numbers; it must print nothing else on standard output"
    )]
    Answer {
        /// The command.
        command: String,
        /// The line that was expected.
        expected: String,
        /// What came.
        found: String,
    },
}

/// A program that is started once and given batches on its standard input; `PREDICTORS.md` beside the
/// crate has the protocol and an example.
#[derive(Debug)]
pub struct SubprocessPredictor {
    command: String,
    spec: AnswerSpec,
    process: Mutex<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

#[derive(Serialize)]
struct Question<'a> {
    shape: &'a [usize],
    dtype: &'a str,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct Answer {
    shape: Vec<usize>,
}

impl SubprocessPredictor {
    /// Starts `command` in a shell, for what a dataset asks.
    ///
    /// # Errors
    /// [`EvalError::Start`] when there is no shell.
    pub fn start(command: &str, spec: AnswerSpec) -> Result<Self, EvalError> {
        let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
        let started = Command::new(shell)
            .args([flag, command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let start = |source| EvalError::Start { command: command.into(), source };
        let mut child = started.map_err(start)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(start(std::io::ErrorKind::BrokenPipe.into()));
        };
        Ok(Self {
            command: command.into(),
            spec,
            process: Mutex::new(Process { child, input, output: BufReader::new(output) }),
        })
    }

    /// The answer to a batch of a shape.
    fn ask(&self, shape: &[usize], values: &[f32]) -> Result<Vec<f32>, ModelError> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let process = &mut *process;
        let header = serde_json::to_string(&Question { shape, dtype: "<f4" })?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let (input, output) = (&mut process.input, &mut process.output);
        let ask = writeln!(input, "{header}").and_then(|()| input.write_all(&bytes));
        if ask.and_then(|()| input.flush()).is_err() {
            return Err(self.ended(&mut process.child).into());
        }
        let mut line = vec![];
        output.by_ref().take(HEADER_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(self.ended(&mut process.child).into());
        }
        let expected = Answer { shape: self.spec.shape(shape[0]) };
        if !serde_json::from_slice(&line).is_ok_and(|found: Answer| found == expected) {
            return Err(self.wrong(&expected, &line)?.into());
        }
        let mut bytes = vec![0; 4 * expected.shape.iter().product::<usize>()];
        if output.read_exact(&mut bytes).is_err() {
            return Err(self.ended(&mut process.child).into());
        }
        let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        Ok(bytes.chunks_exact(4).map(value).collect())
    }

    fn wrong(&self, expected: &Answer, line: &[u8]) -> Result<SubprocessError, ModelError> {
        let found: String = String::from_utf8_lossy(line).trim_end().chars().take(80).collect();
        Ok(SubprocessError::Answer {
            command: self.command.clone(),
            expected: serde_json::to_string(expected)?,
            found: format!("`{found}`"),
        })
    }

    /// How the program ended; it is given a moment to do so.
    fn ended(&self, child: &mut Child) -> SubprocessError {
        let mut status = "it still runs, but closed its input or output".to_owned();
        for _ in 0..50 {
            if let Ok(Some(found)) = child.try_wait() {
                status = found.to_string();
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        SubprocessError::Ended { command: self.command.clone(), status }
    }
}

impl Predictor for SubprocessPredictor {
    /// The command.
    fn name(&self) -> &str {
        &self.command
    }

    fn answers(&self) -> AnswerKind {
        self.spec.kind
    }

    fn classes(&self) -> usize {
        self.spec.names.len()
    }

    fn channels(&self) -> usize {
        self.spec.channels
    }

    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError> {
        let values = batch.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let logits = self.ask(batch.dims(), &values)?;
        Ok(Tensor::from_vec(logits, self.spec.shape(batch.dim(0)?), &Device::Cpu)?)
    }
}

impl Drop for SubprocessPredictor {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = process.child.kill();
        let _ = process.child.wait();
    }
}
