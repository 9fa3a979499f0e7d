//! Ranks that are processes which the first one connects: each has one TCP connection, to it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::bytes::{pack, unpack};
use crate::collectives::{Collectives, Failure, RankError};
use crate::connect::ConnectError;
use crate::launch::{Launch, Master};

/// How a connection begins; the rank and the number of processes follow.
const GREETING: &[u8; 16] = b"steer3d ranks 2\n";

/// How the first process answers one that it takes, which answers with a byte. It is not the greeting: a process that
/// calls a free port may reach itself.
const WELCOME: &[u8; 16] = b"steer3d welcome\n";

/// How the first process answers one that it sends away.
const REFUSAL: &[u8; 16] = b"steer3d refusal\n";

/// How long processes have to come, at most.
const TO_COME: Duration = Duration::from_secs(300);

/// How long the first process waits for each part of a greeting.
const TO_GREET: Duration = Duration::from_secs(1);

/// How long a process waits for the answer to its greeting, before it greets again.
const TO_ANSWER: Duration = Duration::from_secs(5);

/// The exit code with which the first process fails where not all have come.
const NOT_CONNECTED: u8 = 2;

/// One of the processes. In a round each but the first sends its bytes to the first, which answers all of them.
#[derive(Debug)]
pub(crate) struct Process {
    index: usize,
    size: usize,
    limit: Duration,
    lines: Arc<Mutex<Lines>>,
    broken: AtomicBool,
    /// The first failure that this process heard of, in any group.
    heard: Arc<OnceLock<Failure>>,
}

/// Of the first process the connections of the others in their order, of the others the one to the first.
#[derive(Debug)]
struct Lines(Vec<TcpStream>);

/// What a process has to say in a round: its bytes, or that one fails.
type Said = Result<Vec<u8>, Failure>;

impl Process {
    /// Connects all processes of a launch.
    ///
    /// # Errors
    /// If the address is wrong or taken, a process does not come in time, or two have the same rank.
    pub(crate) fn connect(
        launch: &Launch,
        master: &Master,
        limit: Duration,
    ) -> Result<Self, ConnectError> {
        let to_come = limit.min(TO_COME);
        let lines = match launch.rank {
            0 => Lines::listen(launch, master, to_come)?,
            _ => Lines::call(launch, master, to_come)?,
        };
        lines.limit(limit).map_err(at(master))?;
        let (index, size, lines) = (launch.rank, launch.size, Arc::new(Mutex::new(lines)));
        let (broken, heard) = (AtomicBool::new(false), Arc::default());
        Ok(Self { index, size, limit, lines, broken, heard })
    }

    fn breaks(&self, failure: Failure) -> Failure {
        self.broken.store(true, Ordering::SeqCst);
        *self.heard.get_or_init(|| failure)
    }

    /// What the others say: the first process makes the answer to each of what all give.
    fn round(
        &self,
        own: Said,
        answer: impl Fn(&[Vec<u8>], usize) -> Vec<u8>,
    ) -> Result<Vec<u8>, RankError> {
        if let Some(failure) = self.heard.get().filter(|_| self.broken.load(Ordering::SeqCst)) {
            return Err(RankError::Failed(*failure));
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = &mut lines.0;
        let answered = if self.index > 0 {
            let heard = say(&mut lines[0], &own).and_then(|()| hear(&mut lines[0]));
            // The first of those that notice it says so.
            heard.map_err(|error| self.lost("rank 0", &error, 1))?
        } else {
            self.answer(&mut lines[..self.size - 1], own, answer)?
        };
        answered.map_err(|failure| RankError::Failed(self.breaks(failure)))
    }

    /// Hears all other processes, answers them, and gives the own answer.
    fn answer(
        &self,
        lines: &mut [TcpStream],
        own: Said,
        answer: impl Fn(&[Vec<u8>], usize) -> Vec<u8>,
    ) -> Result<Said, RankError> {
        let mut lost = None;
        let mut said = vec![own];
        for (line, rank) in lines.iter_mut().zip(1..) {
            said.push(hear(line).unwrap_or_else(|error| {
                lost.get_or_insert_with(|| self.lost(&format!("rank {rank}"), &error, 0));
                Err(Failure { rank, code: 1 })
            }));
        }
        let given: Result<Vec<Vec<u8>>, Failure> = said.into_iter().collect();
        for (line, rank) in lines.iter_mut().zip(1..) {
            let answered = given.as_ref().map(|given| answer(given, rank)).map_err(|f| *f);
            // One that is gone is found in the next round, if not before.
            let _ = say(line, &answered);
        }
        lost.map_or_else(|| Ok(given.map(|given| answer(&given, 0))), Err)
    }

    /// The error where a connection is lost, which the rank `told_by` tells.
    fn lost(&self, to: &str, error: &io::Error, told_by: usize) -> RankError {
        let (rank, size) = (self.index, self.size);
        self.breaks(Failure { rank: told_by, code: 1 });
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                RankError::TimedOut { rank, size, limit: self.limit }
            }
            kind => {
                use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
                let ended = matches!(kind, BrokenPipe | ConnectionReset | UnexpectedEof);
                let problem = if ended { "it has ended".to_owned() } else { error.to_string() };
                RankError::Broken { rank, size, to: to.to_owned(), problem }
            }
        }
    }
}

impl Collectives for Process {
    fn index(&self) -> usize {
        self.index
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, bytes: Vec<u8>) -> Result<Arc<[Vec<u8>]>, RankError> {
        let all = self.round(Ok(bytes), |given, _| pack(given))?;
        let all = unpack(&all).filter(|all| all.len() == self.size);
        all.map(Into::into).ok_or(RankError::Different)
    }

    fn exchange(&self, parts: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, RankError> {
        let part_of = |given: &Vec<u8>, rank: usize| unpack(given)?.into_iter().nth(rank);
        let for_rank = |given: &[Vec<u8>], rank: usize| {
            let parts: Vec<_> = given.iter().filter_map(|given| part_of(given, rank)).collect();
            pack(&parts)
        };
        let all = unpack(&self.round(Ok(pack(parts)), for_rank)?);
        all.filter(|all| all.len() == self.size).ok_or(RankError::Different)
    }

    fn first(&self, count: usize) -> Result<Arc<dyn Collectives>, RankError> {
        let lines = Arc::clone(&self.lines);
        let (index, limit, heard) = (self.index, self.limit, Arc::clone(&self.heard));
        let broken = AtomicBool::new(false);
        Ok(Arc::new(Self { index, size: count, limit, lines, broken, heard }))
    }

    fn be_patient(&self, patient: bool) {
        for line in &self.lines.lock().unwrap_or_else(PoisonError::into_inner).0 {
            // A limit that stays shows itself as an error of the next call.
            let _ = line.set_read_timeout((!patient).then_some(self.limit));
        }
    }

    fn fail(&self, code: u8) -> Failure {
        let own = Failure { rank: self.index, code };
        let first = self.heard.get().copied().unwrap_or(own);
        match self.round(Err(first), |_, _| vec![]) {
            Err(RankError::Failed(failure)) => failure,
            _ => self.heard.get().copied().unwrap_or(own),
        }
    }
}

fn say(line: &mut TcpStream, said: &Said) -> io::Result<()> {
    let numbers = match said {
        Ok(bytes) => [0, bytes.len() as u64],
        Err(Failure { rank, code }) => [1 + u64::from(*code), *rank as u64],
    };
    let mut message: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    message.extend(said.iter().flatten());
    line.write_all(&message)
}

fn hear(line: &mut TcpStream) -> io::Result<Said> {
    let mut numbers = [[0; 8]; 2];
    line.read_exact(numbers.as_flattened_mut())?;
    let [status, number] = numbers.map(u64::from_le_bytes);
    if let Some(code) = status.checked_sub(1) {
        return Ok(Err(Failure { rank: number as usize, code: code as u8 }));
    }
    let mut bytes = vec![];
    line.take(number).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < number {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(Ok(bytes))
}

impl Lines {
    /// The connections of all other processes to this one. If not all come, those that have come hear of it in their first
    /// round.
    fn listen(launch: &Launch, master: &Master, limit: Duration) -> Result<Self, ConnectError> {
        let mut lines: Vec<Option<TcpStream>> = (1..launch.size).map(|_| None).collect();
        let come = all_come(&mut lines, launch, master, limit);
        let mut lines = Self(lines.into_iter().flatten().collect());
        if come.is_err() {
            let failure = Err(Failure { rank: 0, code: NOT_CONNECTED });
            for line in &mut lines.0 {
                // One that is gone need not hear it.
                let _ = say(line, &failure);
            }
        }
        come.map(|()| lines)
    }

    /// The connection to the first process, which may not listen yet; as long another program may.
    fn call(launch: &Launch, master: &Master, limit: Duration) -> Result<Self, ConnectError> {
        let begin = Instant::now();
        let addresses = (&*master.address, master.port).to_socket_addrs().map_err(at(master))?;
        let addresses: Vec<SocketAddr> = addresses.collect();
        let (address, port) = (master.address.clone(), master.port);
        loop {
            let mut source = io::Error::from(ErrorKind::AddrNotAvailable);
            for to in &addresses {
                match greet(to, launch, limit.min(TO_ANSWER)) {
                    Ok(Some(line)) => return Ok(Self(vec![line])),
                    Ok(None) => return Err(ConnectError::Refused { address, port }),
                    Err(error) => source = error,
                }
            }
            if begin.elapsed() > limit {
                return Err(ConnectError::NoFirst { address, port, limit, source });
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits no longer than that for what is said.
    fn limit(&self, limit: Duration) -> io::Result<()> {
        self.0.iter().try_for_each(|line| {
            line.set_nodelay(true)?;
            line.set_read_timeout(Some(limit))?;
            line.set_write_timeout(Some(limit))
        })
    }
}

/// The system's error at the address of the first process.
fn at(master: &Master) -> impl Fn(io::Error) -> ConnectError + '_ {
    move |source| {
        let (address, port) = (master.address.clone(), master.port);
        ConnectError::Address { address, port, source }
    }
}

/// Waits until each of the other processes has come to its place.
fn all_come(
    lines: &mut [Option<TcpStream>],
    launch: &Launch,
    master: &Master,
    limit: Duration,
) -> Result<(), ConnectError> {
    let listener = TcpListener::bind((&*master.address, master.port)).map_err(at(master))?;
    listener.set_nonblocking(true).map_err(at(master))?;
    let begin = Instant::now();
    while let Some(place) = lines.iter().position(Option::is_none) {
        if begin.elapsed() > limit {
            return Err(ConnectError::Missing { rank: place + 1, size: launch.size, limit });
        }
        match listener.accept() {
            Ok((line, _)) => {
                if let Some(rank) = greeted(&line, launch, lines)? {
                    lines[rank - 1] = Some(line);
                }
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {
                    sleep(Duration::from_millis(5));
                }
                _ => return Err(at(master)(error)),
            },
        }
    }
    Ok(())
}

/// The rank of a process that connects; none if it is a stranger, or has gone before it was answered.
fn greeted(
    mut line: &TcpStream,
    launch: &Launch,
    lines: &[Option<TcpStream>],
) -> Result<Option<usize>, ConnectError> {
    let Ok([rank, size]) = greeting(line) else { return Ok(None) };
    let expected = launch.size;
    let problem = match rank.checked_sub(1).and_then(|place| lines.get(place)) {
        _ if size != expected => ConnectError::Disagree { rank, found: size, expected },
        None => return Ok(None),
        Some(Some(_)) => ConnectError::SameRank { rank, size },
        Some(None) => {
            let mut here = [0];
            let met = line.write_all(WELCOME).and_then(|()| line.read_exact(&mut here));
            return Ok(met.is_ok().then_some(rank));
        }
    };
    // One that is gone need not hear it.
    let _ = line.write_all(REFUSAL);
    Err(problem)
}

/// The rank and the number of processes with which a process greets.
fn greeting(mut line: &TcpStream) -> io::Result<[usize; 2]> {
    line.set_nonblocking(false)?;
    line.set_read_timeout(Some(TO_GREET))?;
    let (mut greeting, mut numbers) = ([0; 16], [[0; 8]; 2]);
    line.read_exact(&mut greeting)?;
    if greeting != *GREETING {
        return Err(ErrorKind::InvalidData.into());
    }
    line.read_exact(numbers.as_flattened_mut())?;
    Ok(numbers.map(|number| u64::from_le_bytes(number) as usize))
}

/// The connection to the first process, if it answers there; none if it sends this one away.
fn greet(to: &SocketAddr, launch: &Launch, limit: Duration) -> io::Result<Option<TcpStream>> {
    let mut line = TcpStream::connect_timeout(to, limit)?;
    line.set_read_timeout(Some(limit))?;
    let numbers = [launch.rank, launch.size].map(|number| (number as u64).to_le_bytes());
    line.write_all(&[&GREETING[..], numbers.as_flattened()].concat())?;
    let mut answer = [0; 16];
    match line.read_exact(&mut answer) {
        Ok(()) if answer == *REFUSAL => Ok(None),
        Ok(()) if answer == *WELCOME => line.write_all(&[1]).map(|()| Some(line)),
        _ => Err(io::Error::other("what listens there is not rank 0 of the same processes")),
    }
}

#[cfg(test)]
mod tests {
    use std::thread::spawn;

    use super::*;
    use crate::launch::Launcher;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(60);

    fn free() -> Master {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Master { address: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() }
    }

    fn connect(
        master: &Master,
        [rank, size]: [usize; 2],
        limit: Duration,
    ) -> Result<Process, ConnectError> {
        let launch = Launch { rank, size, launcher: Launcher::Torchrun, ..Launch::NONE };
        Process::connect(&launch, master, limit)
    }

    /// What processes with these ranks and numbers of processes find that start at the same time.
    fn all(given: &[[usize; 2]]) -> Vec<Result<Process, ConnectError>> {
        let master = &free();
        std::thread::scope(|scope| {
            let start = |given: &[usize; 2]| {
                let given = *given;
                scope.spawn(move || connect(master, given, LONG))
            };
            let threads: Vec<_> = given.iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn two_processes_of_one_rank_are_named_and_nobody_waits() {
        let mut found = all(&[[0, 3], [1, 3], [1, 3]]);
        let message = found.remove(0).unwrap_err().to_string();
        assert!(message.contains("RANK: expected one process of rank 1, found two"), "{message}");
        found.sort_by_key(Result::is_err);
        let failure = RankError::Failed(Failure { rank: 0, code: NOT_CONNECTED });
        assert_eq!(found[0].as_ref().unwrap().gather(vec![]).unwrap_err(), failure);
        let error = found[1].as_ref().unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }) && error.is_told_by_first());
    }

    #[test]
    fn other_numbers_of_processes_are_named() {
        let found = all(&[[0, 2], [1, 3]]);
        let message = found[0].as_ref().unwrap_err().to_string();
        assert!(message.contains("expected 2 in the process of rank 1, found 3"), "{message}");
        assert!(matches!(found[1], Err(ConnectError::Refused { .. })));
    }

    #[test]
    fn another_program_at_the_port_is_no_rank() {
        let master = free();
        let other = TcpListener::bind((&*master.address, master.port)).unwrap();
        let taken = connect(&master, [0, 2], SHORT).unwrap_err();
        assert!(matches!(taken, ConnectError::Address { .. }), "{taken}");
        let none = connect(&master, [1, 2], SHORT).unwrap_err();
        assert!(none.to_string().contains("is not rank 0 of the same processes"), "{none}");
        // Once it has ended, the processes find each other.
        let rank = spawn({
            let master = master.clone();
            move || connect(&master, [1, 2], LONG)
        });
        drop(other.accept().unwrap());
        drop(other);
        let first = connect(&master, [0, 2], LONG).unwrap();
        let rank = rank.join().unwrap().unwrap();
        let meet = spawn(move || rank.gather(vec![1]).map(|all| all.to_vec()));
        assert_eq!(first.gather(vec![0]).unwrap().to_vec(), [[0], [1]]);
        assert_eq!(meet.join().unwrap().unwrap(), [[0], [1]]);
    }

    #[test]
    fn who_does_not_come_is_named() {
        let message = connect(&free(), [0, 3], SHORT).unwrap_err().to_string();
        assert!(message.contains("expected rank 1 of 3 at rank 0 within 0 s"), "{message}");
        let message = connect(&free(), [2, 3], SHORT).unwrap_err().to_string();
        assert!(message.contains("expected an answer of rank 0 there within 0 s"), "{message}");
    }
}
