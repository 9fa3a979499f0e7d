//! A picture in memory that is saved as PNG.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

pub(crate) struct Canvas {
    width: usize,
    pixels: Vec<[u8; 3]>,
}

impl Canvas {
    /// White.
    pub(crate) fn new(width: usize, height: usize) -> Self {
        Self { width, pixels: vec![[255; 3]; width * height] }
    }

    /// Colours a pixel, x to the right and y down; what lies outside is left out.
    pub(crate) fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width
            && let Some(pixel) = self.pixels.get_mut(y * self.width + x)
        {
            *pixel = colour;
        }
    }

    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let height = self.pixels.len() / self.width;
        let file = BufWriter::new(File::create(path)?);
        let mut encoder = png::Encoder::new(file, self.width as u32, height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header()?.write_image_data(self.pixels.as_flattened())?;
        Ok(())
    }
}
