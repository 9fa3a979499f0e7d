//! Chemical elements.

const SYMBOLS: [&str; 118] = [
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl",
    "Ar", "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As",
    "Se", "Br", "Kr", "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In",
    "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb",
    "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl",
    "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm", "Bk",
    "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn", "Nh",
    "Fl", "Mc", "Lv", "Ts", "Og",
];

/// The symbol of an atomic number from 1 to 118.
///
/// ```
/// assert_eq!(steer3d_volume::elements::symbol(17), Some("Cl"));
/// assert_eq!(steer3d_volume::elements::symbol(0), None);
/// ```
pub fn symbol(number: u8) -> Option<&'static str> {
    SYMBOLS.get(usize::from(number).checked_sub(1)?).copied()
}

/// The atomic number of a symbol, in any case; deuterium `D` and tritium `T` are hydrogen.
///
/// ```
/// use steer3d_volume::elements::atomic_number;
/// assert_eq!((atomic_number("CL"), atomic_number("D")), (Some(17), Some(1)));
/// assert_eq!(atomic_number("Xx"), None);
/// ```
pub fn atomic_number(symbol: &str) -> Option<u8> {
    if symbol.eq_ignore_ascii_case("D") || symbol.eq_ignore_ascii_case("T") {
        return Some(1);
    }
    let index = SYMBOLS.iter().position(|known| known.eq_ignore_ascii_case(symbol))?;
    Some(index as u8 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_and_numbers_are_inverse() {
        for number in 1..=118 {
            assert_eq!(atomic_number(symbol(number).unwrap()), Some(number));
        }
        assert_eq!(symbol(119), None);
        // Anchors against a shifted table.
        for (number, name) in [(1, "H"), (26, "Fe"), (53, "I"), (79, "Au"), (92, "U"), (118, "Og")]
        {
            assert_eq!(symbol(number), Some(name));
        }
    }
}
