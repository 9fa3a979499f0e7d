//! Densities of molecules on a grid.

use serde::{Deserialize, Serialize};
use steer3d_so3::Rotation;

use crate::elements;
use crate::molecule::{Atom, Molecule};
use crate::points::{Gaussian, Normalisation, PointCloud, PointValue};
use crate::volume::{Grid, Volume, VolumeError, checked_len, parameter};

/// Which channel an atom adds to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum ChannelScheme {
    /// One for all atoms.
    #[default]
    Single,
    /// A channel for each of the atomic numbers `listed`, in their order, and with `other` one more
    /// for all other atoms, those whose element the file does not tell too. Without it the others are
    /// left out.
    #[cfg_attr(feature = "clap", value(skip))]
    Elements {
        /// Atomic numbers.
        listed: Vec<u8>,
        /// Is there a channel for the others?
        other: bool,
    },
    /// N, CA, C, O and CB of amino acids, each a channel; other atoms are left out.
    ///
    /// Hetero atoms such as calcium are others.
    Backbone,
    /// A channel for each of these names of atoms of amino acids, such as CA, in their order; other atoms are left out.
    #[cfg_attr(feature = "clap", value(skip))]
    Names(Vec<String>),
}

const BACKBONE: [(&str, u8); 5] = [("N", 7), ("CA", 6), ("C", 6), ("O", 8), ("CB", 6)];

impl ChannelScheme {
    /// A channel for each of the `symbols`, such as C, N, O; a last one `other` is for all others.
    ///
    /// # Errors
    /// If there is no symbol, one is unknown, or one comes twice.
    pub fn of_elements(symbols: &[String]) -> Result<Self, VolumeError> {
        let wrong = |expected, found| parameter("elements", expected, found);
        let (listed, other) = match symbols.split_last() {
            Some((last, rest)) if last == "other" => (rest, true),
            _ => (symbols, false),
        };
        let mut numbers = Vec::with_capacity(listed.len());
        for symbol in listed {
            match elements::atomic_number(symbol) {
                Some(number) if numbers.contains(&number) => {
                    return wrong("every element once", symbols.join(","));
                }
                Some(number) => numbers.push(number),
                None => return wrong("symbols such as C,N,O,S", format!("`{symbol}`")),
            }
        }
        if numbers.is_empty() {
            return wrong("at least one symbol", "none".to_owned());
        }
        Ok(Self::Elements { listed: numbers, other })
    }

    /// Does the channel of every atom follow from its element, so that this must be known?
    pub fn needs_elements(&self) -> bool {
        !matches!(self, Self::Single | Self::Elements { other: true, .. })
    }

    /// Names of the channels, in order.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Single => vec!["atoms".to_owned()],
            Self::Elements { listed, other } => {
                let symbols = listed.iter().map(|&number| elements::symbol(number).unwrap_or("X"));
                symbols.chain(other.then_some("other")).map(str::to_owned).collect()
            }
            Self::Backbone => BACKBONE.map(|(name, _)| name.to_owned()).to_vec(),
            Self::Names(names) => names.clone(),
        }
    }

    /// The channel of an atom; `None` if the scheme leaves it out.
    pub fn channel(&self, atom: &Atom) -> Option<u16> {
        let index = match self {
            Self::Single => 0,
            Self::Elements { listed, other } => {
                let found = listed.iter().position(|&number| number == atom.element);
                found.or(other.then_some(listed.len()))?
            }
            Self::Backbone | Self::Names(_) if atom.is_water() => return None,
            Self::Backbone => {
                BACKBONE.iter().position(|&(n, e)| n == atom.name && e == atom.element)?
            }
            // The names of atoms of amino acids begin with their element: CA is carbon here, and calcium an other.
            Self::Names(names) => {
                let element = elements::symbol(atom.element)?;
                let named = |name: &String| *name == atom.name && name.starts_with(element);
                names.iter().position(named)?
            }
        };
        u16::try_from(index).ok()
    }
}

/// The weight of an atom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Weight {
    /// 1.
    #[default]
    One,
    /// Occupancy: alternate locations share one atom, and all of them are kept.
    Occupancy,
    /// Partial or formal charge.
    Charge,
    /// B factor.
    BFactor,
}

impl Weight {
    /// What it is, for a person.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Occupancy => "occupancy",
            Self::Charge => "charge",
            Self::BFactor => "B factor",
        }
    }

    /// The weight of an atom.
    pub fn of(self, atom: &Atom) -> f64 {
        match self {
            Self::One => 1.0,
            Self::Occupancy => atom.occupancy,
            Self::Charge => atom.charge,
            Self::BFactor => atom.b_factor,
        }
    }
}

/// What lies at the centre of the grid, about which the molecule rotates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Centring {
    /// The origin of the file's coordinates.
    Origin,
    /// The mean of the positions of all atoms.
    Mean,
    /// A position x, y, z, for example of one atom or of the middle of the cell.
    At([f64; 3]),
}

/// Turns molecules into densities. All lengths are in angstrom.
///
/// ```
/// use steer3d_so3::Rotation;
/// use steer3d_volume::density::{ChannelScheme, MoleculeVoxeliser};
/// use steer3d_formats::{FileContents, Format, read_as};
/// use steer3d_volume::Grid;
///
/// let text = "3\nwater\nO 0.0 0.0 0.0\nH 0.76 0.59 0.0\nH -0.76 0.59 0.0\n";
/// let Ok(FileContents::Molecules(molecules)) = read_as(text.as_bytes(), Format::Xyz) else { panic!() };
/// let voxeliser = MoleculeVoxeliser {
///     channels: ChannelScheme::Elements { listed: vec![8, 1], other: false },
///     ..MoleculeVoxeliser::new(Grid::new([16, 16, 20], [0.5; 3])?, 0.5)
/// };
/// let volume = voxeliser.voxelise(&molecules[0], &Rotation::identity())?;
/// let hydrogen: f32 = volume.data()[16 * 16 * 20..].iter().sum();
/// assert!((hydrogen - 2.0).abs() < 1e-4);
/// # Ok::<(), steer3d_volume::VolumeError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MoleculeVoxeliser {
    /// The grid.
    pub grid: Grid,
    /// The Gaussian of each atom.
    pub gaussian: Gaussian,
    /// The channels.
    pub channels: ChannelScheme,
    /// The weight of each atom.
    pub weight: Weight,
    /// What lies at the centre of the grid.
    pub centring: Centring,
    /// Atoms farther than this from the centre of the grid are left out.
    pub radius: Option<f64>,
    /// Are atoms repeated by the molecule's unit cell, if it has one? This needs
    /// [`Normalisation::Integral`].
    pub periodic: bool,
}

impl MoleculeVoxeliser {
    /// One channel of Gaussians of width `sigma`, cut off at 5 σ and normalised by their integral,
    /// of weight 1, about the mean of the atoms, without periodic images.
    pub fn new(grid: Grid, sigma: f64) -> Self {
        let gaussian =
            Gaussian { sigma, cutoff: 5.0 * sigma, normalisation: Normalisation::Integral };
        Self {
            grid,
            gaussian,
            channels: ChannelScheme::Single,
            weight: Weight::One,
            centring: Centring::Mean,
            radius: None,
            periodic: false,
        }
    }

    /// The surroundings of a residue whose alpha carbon is at `centre`, for the amino acid
    /// experiment of Weiler et al. 2018 (<https://arxiv.org/abs/1807.02547>, section 5.3): 24³
    /// voxels of 1 Å, all atoms within 12 Å of the alpha carbon, one channel for each of C, N, O,
    /// S and H.
    ///
    /// Certain: the task, data and layers are those of Boomsma and Frellsen 2017, who predict the
    /// kind of a residue from what surrounds it, and their surroundings are turned into a frame of
    /// the backbone, which this leaves to the `rotation` of [`MoleculeVoxeliser::voxelise`].
    ///
    /// As we understand the two papers, not checked against their data: the grid, the radius and
    /// the channels. Assumed, since the text does not say: Gaussians as in the CATH experiment (σ
    /// half a voxel, scaled to sum to 1 on the grid), and other elements left out.
    ///
    /// The side chain to be predicted must be taken out of the molecule first, see
    /// [`Molecule::without_side_chain`].
    ///
    /// # Errors
    /// None; the grid is valid.
    pub fn amino_acid_environment(centre: [f64; 3]) -> Result<Self, VolumeError> {
        let voxeliser = Self::new(Grid::new([24; 3], [1.0; 3])?, 0.5);
        let gaussian = Gaussian { normalisation: Normalisation::GridSum, ..voxeliser.gaussian };
        Ok(Self {
            gaussian,
            channels: ChannelScheme::Elements { listed: vec![6, 7, 8, 16, 1], other: false },
            centring: Centring::At(centre),
            radius: Some(12.0),
            ..voxeliser
        })
    }

    /// The density of a molecule after `rotation` about the centre of the grid.
    ///
    /// # Errors
    /// If a parameter is outside its range, a weight or position is not finite, the channels ask for
    /// an element that the molecule does not tell, or the unit cell is too small for the grid; see
    /// [`Gaussian::density_into`].
    pub fn voxelise(
        &self,
        molecule: &Molecule,
        rotation: &Rotation,
    ) -> Result<Volume, VolumeError> {
        let weights = molecule.atoms.iter().map(|atom| PointValue::Scalar(self.weight.of(atom)));
        self.voxelise_values(molecule, &weights.collect::<Vec<_>>(), rotation)
    }

    /// [`MoleculeVoxeliser::voxelise`] with a value for each atom in place of the weight: all
    /// scalars, or all vectors. Vectors turn with the molecule, and every channel of the scheme
    /// becomes three, x, y and z: a field of irreps n x 1.
    ///
    /// # Errors
    /// As [`MoleculeVoxeliser::voxelise`], and if there is not one value for each atom or there are
    /// scalars and vectors.
    pub fn voxelise_values(
        &self,
        molecule: &Molecule,
        values: &[PointValue],
        rotation: &Rotation,
    ) -> Result<Volume, VolumeError> {
        let cloud = self.cloud(molecule, values)?;
        let each = values.first().map_or(1, |value| value.components().len());
        let channels = self.channels.names().len() * each;
        let mut data = vec![0.0; checked_len(channels, self.grid.dims())?];
        let cell = molecule.cell.as_ref().filter(|_| self.periodic);
        self.gaussian.density_into(&cloud, rotation, cell, &self.grid, &mut data)?;
        Volume::centred(data, channels, self.grid)
    }

    /// The points of a molecule, about the centre of the grid, with a value for each atom.
    ///
    /// # Errors
    /// As [`MoleculeVoxeliser::voxelise_values`].
    pub fn cloud(
        &self,
        molecule: &Molecule,
        values: &[PointValue],
    ) -> Result<PointCloud, VolumeError> {
        let (expected, found) = (molecule.atoms.len(), values.len());
        if expected != found {
            return Err(VolumeError::Length { what: "values of atoms", expected, found });
        }
        if self.channels.needs_elements() {
            molecule.check_elements()?;
        }
        let each = values.first().map_or(1, |value| value.components().len());
        if values.iter().any(|value| value.components().len() != each) {
            return parameter("values of atoms", "all scalars or all vectors", "a mixture");
        }
        let centre = match self.centring {
            Centring::Origin => [0.0; 3],
            Centring::Mean => molecule.centre().unwrap_or_default(),
            Centring::At(centre) => centre,
        };
        let (mut positions, mut channels, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for (atom, &value) in molecule.atoms.iter().zip(values) {
            let position = [0, 1, 2].map(|axis| atom.position[axis] - centre[axis]);
            let square: f64 = position.iter().map(|x| x * x).sum();
            let near = self.radius.is_none_or(|radius| square <= radius * radius);
            if let Some(channel) = self.channels.channel(atom).filter(|_| near) {
                positions.push(position);
                channels.push(channel * each as u16);
                kept.push(value);
            }
        }
        PointCloud::new(positions, channels)?.with_values(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::molecule::Cell;
    use steer3d_so3::random_rotations;

    fn molecule() -> Molecule {
        let atom = |name: &str, element, position, occupancy| Atom {
            name: name.to_owned(),
            element,
            position,
            occupancy,
            residue: "SER".to_owned(),
            charge: if name == "O" { -0.5 } else { 0.0 },
            ..Atom::default()
        };
        let atoms = vec![
            atom("N", 7, [1.0, 0.0, 0.0], 1.0),
            atom("CA", 6, [2.0, 1.0, 0.0], 1.0),
            atom("C", 6, [3.0, 0.5, 1.0], 1.0),
            atom("O", 8, [3.0, 0.0, 2.0], 1.0),
            atom("CB", 6, [2.0, 2.5, 0.0], 0.25),
            atom("OG", 8, [1.0, 3.0, 0.5], 0.75),
            atom("CA", 20, [4.0, 3.0, 0.5], 1.0),
        ];
        Molecule { atoms, ..Molecule::default() }
    }

    fn voxeliser(channels: ChannelScheme) -> MoleculeVoxeliser {
        let grid = Grid::new([18, 20, 22], [0.8; 3]).unwrap();
        MoleculeVoxeliser { channels, ..MoleculeVoxeliser::new(grid, 0.5) }
    }

    fn sums(volume: &Volume) -> Vec<f64> {
        let voxels = volume.grid().voxels();
        let sum = |channel: &[f32]| channel.iter().map(|&value| f64::from(value)).sum();
        volume.data().chunks(voxels).map(sum).collect()
    }

    fn assert_sums(voxeliser: &MoleculeVoxeliser, expected: &[f64]) {
        assert_eq!(voxeliser.channels.names().len(), expected.len());
        for rotation in random_rotations(3, 3) {
            let found = sums(&voxeliser.voxelise(&molecule(), &rotation).unwrap());
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                // The required 0.1 % of mass; the tails beyond the cut-off are 2e-6.
                assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0), "{found}");
            }
        }
    }

    #[test]
    fn channels_and_weights_share_out_the_mass() {
        assert_sums(&voxeliser(ChannelScheme::Single), &[7.0]);
        let elements = |other| ChannelScheme::Elements { listed: vec![6, 8], other };
        assert_sums(&voxeliser(elements(false)), &[3.0, 2.0]);
        assert_sums(&voxeliser(elements(true)), &[3.0, 2.0, 2.0]);
        assert_sums(&voxeliser(ChannelScheme::Backbone), &[1.0; 5]);
        let weighted = |weight| MoleculeVoxeliser { weight, ..voxeliser(elements(true)) };
        assert_sums(&weighted(Weight::Occupancy), &[2.25, 1.75, 2.0]);
        assert_sums(&weighted(Weight::Charge), &[0.0, -0.5, 0.0]);
        assert_eq!(elements(true).names(), ["C", "O", "other"]);
        let of = |text: &str| {
            let symbols: Vec<_> = text.split(',').map(str::to_owned).collect();
            ChannelScheme::of_elements(&symbols)
        };
        assert_eq!(of("C,O").unwrap(), elements(false));
        assert_eq!(of("C,O,other").unwrap(), elements(true));
        for wrong in ["C,Xx", "C,O,C", "other", "other,C", ""] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn vectors_make_three_channels_of_each() {
        let scheme = ChannelScheme::Elements { listed: vec![8, 7], other: false };
        let values: Vec<_> = (0..7).map(|i| PointValue::Vector([f64::from(i), 1.0, 0.0])).collect();
        let voxeliser = voxeliser(scheme);
        for rotation in random_rotations(4, 3) {
            let volume = voxeliser.voxelise_values(&molecule(), &values, &rotation).unwrap();
            let oxygen = rotation * nalgebra::Vector3::new(3.0 + 5.0, 2.0, 0.0);
            let nitrogen = rotation * nalgebra::Vector3::new(0.0, 1.0, 0.0);
            let expected = oxygen.iter().chain(&nitrogen).copied().collect::<Vec<_>>();
            for (found, expected) in sums(&volume).iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
        let mut mixed = values.clone();
        mixed[2] = PointValue::Scalar(1.0);
        for wrong in [&mixed[..], &values[1..]] {
            let result = voxeliser.voxelise_values(&molecule(), wrong, &Rotation::identity());
            assert!(result.is_err());
        }
    }

    #[test]
    fn centring_moves_the_molecule_and_the_radius_cuts_it() {
        let at = |centring| {
            let voxeliser = MoleculeVoxeliser { centring, ..voxeliser(ChannelScheme::Single) };
            let ones = vec![PointValue::Scalar(1.0); 7];
            voxeliser.cloud(&molecule(), &ones).unwrap().positions()[1]
        };
        assert_eq!(at(Centring::Origin), [2.0, 1.0, 0.0]);
        assert_eq!(at(Centring::At([2.0, 0.0, -1.0])), [0.0, 1.0, 1.0]);
        let mean = [16.0 / 7.0, 10.0 / 7.0, 4.0 / 7.0];
        for (found, expected) in at(Centring::Mean)
            .iter()
            .zip([2.0, 1.0, 0.0])
            .zip(mean)
            .map(|((found, position), mean)| (found, position - mean))
        {
            assert!((found - expected).abs() < 1e-12);
        }
        let voxeliser = MoleculeVoxeliser::amino_acid_environment([2.0, 1.0, 0.0]).unwrap();
        let mut long = molecule();
        long.atoms[0].position = [2.0, 1.0, 12.01];
        let found = sums(&voxeliser.voxelise(&long, &Rotation::identity()).unwrap());
        for (found, expected) in found.iter().zip([3.0, 0.0, 2.0, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-5, "{found}");
        }
        let bare = molecule().without_side_chain("", 0, None);
        assert_eq!(bare.atoms.len(), 4);
    }

    #[test]
    fn a_crystal_fills_the_grid_of_its_cell() {
        let cell = Cell::new([22.0 * 0.8, 20.0 * 0.8, 18.0 * 0.8], [90.0; 3]).unwrap();
        let crystal = Molecule { cell: Some(cell), ..molecule() };
        let voxeliser = MoleculeVoxeliser {
            periodic: true,
            centring: Centring::Origin,
            ..voxeliser(ChannelScheme::Single)
        };
        let shifted = |shift: f64| {
            let mut crystal = crystal.clone();
            crystal.atoms.iter_mut().for_each(|atom| atom.position[0] += shift);
            sums(&voxeliser.voxelise(&crystal, &Rotation::identity()).unwrap())[0]
        };
        for shift in [0.0, 7.0, 100.3] {
            assert!((shifted(shift) - 7.0).abs() < 1e-4);
        }
    }
}
