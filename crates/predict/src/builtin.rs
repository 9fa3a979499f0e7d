//! The models that come with the program.

/// A model that comes with the program.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// Its name.
    pub name: &'static str,
    /// What it answers, in a line.
    pub about: &'static str,
    /// Its file.
    pub bytes: &'static [u8],
}

/// All of them; `models/README.md` has their cards.
pub const BUILTIN: &[Builtin] = &[];

/// The model of this name.
pub(crate) fn find(name: &str) -> Option<&'static Builtin> {
    BUILTIN.iter().find(|model| model.name == name)
}

/// What to do about a name that no model has.
pub(crate) fn advice(name: &str) -> String {
    let nearest = BUILTIN
        .iter()
        .map(|model| (strsim::jaro_winkler(name, model.name), model.name))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let all: Vec<&str> = BUILTIN.iter().map(|model| model.name).collect();
    match nearest {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None if all.is_empty() => "give a model file (.safetensors)".to_owned(),
        None => format!("give a model file (.safetensors) or one of {}", all.join(", ")),
    }
}
