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

/// All of them; `docs/src/guide/models.md` has their cards.
pub const BUILTIN: &[Builtin] = &[
    Builtin {
        name: "cath-class",
        about: "CATH class of a protein domain: mainly alpha, mainly beta, alpha beta",
        bytes: include_bytes!("../models/cath-class.safetensors"),
    },
    Builtin {
        name: "cath-architecture",
        about: "CATH architecture of a protein domain, one of ten",
        bytes: include_bytes!("../models/cath-architecture.safetensors"),
    },
    Builtin {
        name: "secondary-structure",
        about: "coil, helix or strand at every voxel of a map of a protein, of 5 to 10 angstrom",
        bytes: include_bytes!("../models/secondary-structure.safetensors"),
    },
    Builtin {
        name: "adrenal",
        about: "adrenal gland, a mask of 28 x 28 x 28 voxels: normal or mass",
        bytes: include_bytes!("../models/adrenal.safetensors"),
    },
];

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
    if let Some((_, name)) = nearest {
        return format!("did you mean `{name}`?");
    }
    let all: Vec<&str> = BUILTIN.iter().map(|model| model.name).collect();
    format!("give a model file (.safetensors) or one of {}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use steer3d_eval::AnswerKind;

    use super::*;
    use crate::Model;

    #[test]
    fn all_models_can_be_opened_and_say_what_they_are() {
        for builtin in BUILTIN {
            let model = Model::open(builtin.name, None, &Device::Cpu).unwrap();
            model.recipe().unwrap();
            let origin = &model.card().origin;
            assert!(!origin.licence.is_empty() && !origin.scores.is_empty(), "{}", builtin.name);
            // A network that labels voxels has no features of the whole.
            let voxels = model.answers() == AnswerKind::Voxels;
            assert_eq!(origin.typical.is_none(), voxels, "{}", builtin.name);
        }
        assert_eq!(advice("cath-clas"), "did you mean `cath-class`?");
        assert!(advice("xyz").contains("one of cath-class, "));
    }
}
