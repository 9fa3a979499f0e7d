//! A build that was stopped never gives an old item, whatever changes before it goes on.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use steer3d_dataset::{
    Atoms, BuildError, Fractions, ImportOptions, ItemError, ItemSource, Listing, RecipeOptions,
    Store, build, files,
};

/// A file and its row of the table.
#[derive(Clone, Debug, PartialEq)]
struct Molecule {
    name: usize,
    /// A digit of its contents.
    place: u8,
    class: u8,
    split: u8,
    group: u8,
    id: u8,
}

#[derive(Clone, Debug, PartialEq)]
struct Project {
    molecules: Vec<Molecule>,
    recipe: RecipeOptions,
    name: String,
    credit: String,
}

#[derive(Clone, Debug)]
enum Change {
    None,
    Place(usize, u8),
    Exchanged(usize, usize),
    Class(usize, u8),
    Split(usize, u8),
    Group(usize, u8),
    Id(usize, u8),
    Removed(usize),
    Added(u8),
    Name,
    Credit,
    VoxelSize,
    Atoms,
    Sigma,
}

fn change() -> impl Strategy<Value = Change> {
    let (item, digit) = (0..6usize, 0..4u8);
    prop_oneof![
        Just(Change::None),
        (item.clone(), 0..10u8).prop_map(|(i, d)| Change::Place(i, d)),
        (item.clone(), item.clone()).prop_map(|(i, k)| Change::Exchanged(i, k)),
        (item.clone(), digit.clone()).prop_map(|(i, d)| Change::Class(i, d)),
        (item.clone(), 0..3u8).prop_map(|(i, d)| Change::Split(i, d)),
        (item.clone(), digit.clone()).prop_map(|(i, d)| Change::Group(i, d)),
        (item.clone(), digit).prop_map(|(i, d)| Change::Id(i, d)),
        item.prop_map(Change::Removed),
        (0..10u8).prop_map(Change::Added),
        Just(Change::Name),
        Just(Change::Credit),
        Just(Change::VoxelSize),
        Just(Change::Atoms),
        Just(Change::Sigma),
    ]
}

fn molecule() -> impl Strategy<Value = Molecule> {
    (0..10u8, 0..2u8, 0..3u8, 0..3u8).prop_map(|(place, class, split, group)| Molecule {
        name: 0,
        place,
        class,
        split,
        group,
        id: 0,
    })
}

fn project() -> impl Strategy<Value = Project> {
    prop::collection::vec(molecule(), 3..6).prop_map(|mut molecules| {
        molecules.iter_mut().enumerate().for_each(|(name, molecule)| molecule.name = name);
        // So large that every item is a batch.
        let (size, voxel_size) = (Some([256; 3]), Some([1.0; 3]));
        let recipe =
            RecipeOptions { size, voxel_size, store: Store::Sources, ..RecipeOptions::default() };
        Project { molecules, recipe, name: "set".to_owned(), credit: "tests".to_owned() }
    })
}

impl Project {
    fn changed(&self, change: &Change) -> Self {
        let mut new = self.clone();
        let count = new.molecules.len();
        match *change {
            Change::None => {}
            Change::Place(i, place) => new.molecules[i % count].place = place,
            Change::Exchanged(i, k) => {
                let (a, b) = (self.molecules[i % count].place, self.molecules[k % count].place);
                new.molecules[i % count].place = b;
                new.molecules[k % count].place = a;
            }
            Change::Class(i, class) => new.molecules[i % count].class = class,
            Change::Split(i, split) => new.molecules[i % count].split = split,
            Change::Group(i, group) => new.molecules[i % count].group = group,
            Change::Id(i, id) => new.molecules[i % count].id = id,
            Change::Removed(i) => drop(new.molecules.remove(i % count)),
            Change::Added(place) => {
                let name = 100;
                new.molecules.insert(1, Molecule { name, place, ..self.molecules[0].clone() });
            }
            Change::Name => new.name.push('2'),
            Change::Credit => new.credit.push('2'),
            Change::VoxelSize => new.recipe.voxel_size = Some([2.0; 3]),
            Change::Atoms => new.recipe.atoms = Atoms::Heavy,
            Change::Sigma => new.recipe.sigma = Some(0.7),
        }
        new
    }

    /// Writes the files and the table, and lists the items.
    fn source(&self, folder: &Path) -> ItemSource {
        let mut table = "path,label,split,group,id\n".to_owned();
        for molecule in &self.molecules {
            let Molecule { name, place, class, split, group, id } = molecule;
            let file = format!("2\nfor a test\nC 0 0 {place}\nO 1 0 0\n");
            fs::write(folder.join(format!("{name}.xyz")), file).unwrap();
            let split = ["train", "validation", "test"][usize::from(*split)];
            writeln!(table, "{name}.xyz,class {class},{split},{group},{name}-{id}").unwrap();
        }
        fs::write(folder.join("table.csv"), table).unwrap();
        let options = ImportOptions {
            name: Some(self.name.clone()),
            source: Some(self.credit.clone()),
            ..ImportOptions::default()
        };
        let listing = Listing::of_table(&folder.join("table.csv")).unwrap();
        files(listing, &self.recipe, &Fractions::default(), false, &options).unwrap()
    }
}

/// A source whose item of this index cannot be made.
fn stopped_at(stop: usize, source: ItemSource) -> ItemSource {
    let make = source.make;
    let make = Box::new(move |index: usize, entry: &_| match index {
        _ if index != stop => make(index, entry),
        _ => Err(ItemError::Kind {
            path: "planted".into(),
            expected: "nothing".to_owned(),
            found: "an error".to_owned(),
        }),
    });
    ItemSource { make, ..source }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_resumed_build_is_a_fresh_one(project in project(), change in change(), stop in 1..6usize) {
        let folder = tempfile::tempdir().unwrap();
        let stop = stop.min(project.molecules.len() - 1);
        let out = folder.path().join("set.h5");
        let error = build(&stopped_at(stop, project.source(folder.path())), &out, false, &|_| {});
        prop_assert!(matches!(error, Err(BuildError::Item(_))), "{error:?}");
        let changed = project.changed(&change);
        let source = changed.source(folder.path());
        match build(&source, &out, false, &|_| {}) {
            Ok(report) => {
                let fresh = folder.path().join("fresh.h5");
                build(&source, &fresh, false, &|_| {}).unwrap();
                prop_assert!(fs::read(&out).unwrap() == fs::read(&fresh).unwrap());
                if changed == project {
                    prop_assert_eq!(report.resumed, stop);
                }
            }
            Err(BuildError::OtherBuild { .. }) => prop_assert!(changed != project),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}
