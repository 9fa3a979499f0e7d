//! Checks what processes exchange: `mpirun -n 3 target/debug/examples/ranks`. With `late` the last rank does not come to
//! a meeting in time, with `fails` it fails.

#![allow(clippy::print_stdout)]

use std::thread::sleep;
use std::time::Duration;

use steer3d_ranks::{Adder, Launch, Launcher, Rank, World};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let launch = Launch::of_environment(Launcher::Auto)?;
    let world = World::connect(&launch, Duration::from_secs(2))?;
    let rank = &world.rank;
    check(rank)?;
    let last = rank.index() + 1 == rank.size();
    match std::env::args().nth(1).as_deref() {
        Some("late") if last => sleep(Duration::from_secs(20)),
        Some("fails") if last => {
            println!("first failure: {:?}", rank.fail(7));
            return Ok(());
        }
        _ => {}
    }
    if let Err(error) = rank.meet() {
        println!("rank {}: {error}", rank.index());
    } else if rank.is_first() {
        println!("{} ranks agree", rank.size());
    }
    Ok(())
}

/// Sums, also in MPI's order and beside other calls, meetings of some, and more bytes than one call takes at first.
fn check(rank: &Rank) -> Result<(), Box<dyn std::error::Error>> {
    let size = rank.size();
    for count in [0, 1, 100, 200_003] {
        let given = |rank: usize, i: usize| ((rank * 31 + i) as f32 * 0.7).sin();
        let mut sums: Vec<f32> = (0..count).map(|i| given(rank.index(), i)).collect();
        let expected = (0..count).map(|i| (1..size).fold(given(0, i), |s, r| s + given(r, i)));
        let mut fast = sums.clone();
        let mut adder = Adder::new(rank, Rank::add_up);
        adder.add(sums.clone())?;
        rank.add_up(&mut sums)?;
        assert_eq!(sums, expected.collect::<Vec<_>>());
        assert_eq!(adder.sums()?, [&sums[..]]);
        rank.add_up_fast(&mut fast)?;
        assert!(fast.iter().zip(&sums).all(|(fast, sum)| (fast - sum).abs() < 1e-5));
        let own = vec![rank.index() as u8; rank.index() * count];
        let all = rank.gather(own)?;
        assert!(all.iter().enumerate().all(|(r, given)| *given == vec![r as u8; r * count]));
    }
    for count in (1..=size).chain(1..=size) {
        if let Some(few) = rank.among_first(count)? {
            assert_eq!(few.run(|| Rank::current().sum(&[1.0]))?, [count as f64]);
        }
    }
    Ok(())
}
