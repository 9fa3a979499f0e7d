//! Numbers as they stand in tables and sentences.

use steer3d_eval::Unit;
use steer3d_eval::metrics::Estimate;

/// `0.8123` as `81.2`, with a minus sign rather than a hyphen.
pub(crate) fn percent(share: f64) -> String {
    // Adding 0.0 turns -0.0 into 0.0.
    format!("{:.1}", (share * 1000.0).round() / 10.0 + 0.0).replace('-', "−")
}

/// An estimate in per cent, `81.2 (75.0 to 86.5)`.
pub(crate) fn percent_interval(e: Estimate) -> String {
    format!("{} ({} to {})", percent(e.value), percent(e.low), percent(e.high))
}

/// A value in a table, with its interval where asked for; a dash stands for what was not measured.
pub(crate) fn cell(e: Option<Estimate>, unit: Unit, interval: bool) -> String {
    let Some(e) = e else { return "–".into() };
    match (unit, interval) {
        (Unit::Share | Unit::Points, true) => percent_interval(e),
        (Unit::Share | Unit::Points, false) => percent(e.value),
        (Unit::Coefficient | Unit::Relative, _) | (Unit::Length, false) => {
            format!("{:.3}", e.value)
        }
        (Unit::Length, true) => format!("{:.3} ({:.3} to {:.3})", e.value, e.low, e.high),
        (Unit::Output, true) => format!("{:.4} ({:.4} to {:.4})", e.value, e.low, e.high),
        (Unit::Output, false) => format!("{:.4}", e.value),
    }
}

/// `12 345`, with a narrow no-break space.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    groups.join("\u{202f}")
}

pub(crate) fn join(numbers: &[impl ToString], separator: &str) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_to_a_tenth_of_a_per_cent() {
        assert_eq!(percent(0.81249), "81.2");
        assert_eq!(percent(-0.0001), "0.0");
        assert_eq!(percent(-0.25), "−25.0");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(1_234_567), "1\u{202f}234\u{202f}567");
    }
}
