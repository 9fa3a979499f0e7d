//! Figures as pictures of pixels.

use std::sync::{Arc, LazyLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::fontdb::Database;
use resvg::usvg::{Options, Tree};

/// Pixels for a unit of the drawing, of which a plot is 560 wide: 1680 across.
const SCALE: f32 = 3.0;

/// The fonts of all figures, so that they look the same on every machine.
static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    Arc::new(fonts)
});

/// A drawing as a PNG file, or what is wrong with it.
pub(crate) fn png(svg: &str) -> Result<Vec<u8>, String> {
    pixels(svg, SCALE)?.encode_png().map_err(|e| e.to_string())
}

/// A drawing with so many pixels for a unit.
pub(crate) fn pixels(svg: &str, scale: f32) -> Result<Pixmap, String> {
    let options = Options { fontdb: FONTS.clone(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|e| e.to_string())?;
    let [width, height] =
        [tree.size().width(), tree.size().height()].map(|n| (n * scale).ceil() as u32);
    let mut pixels = Pixmap::new(width, height).ok_or("a drawing without area")?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixels.as_mut());
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share of pixels that are not transparent.
    fn inked(svg: &str) -> f64 {
        let file = png(svg).unwrap();
        let pixels = Pixmap::decode_png(&file).unwrap();
        let count = pixels.pixels().iter().filter(|p| p.alpha() > 0).count();
        count as f64 / pixels.pixels().len() as f64
    }

    fn drawing(inside: &str) -> String {
        format!(r#"<svg xmlns="http://www.w3.org/2000/svg" width="100" height="20">{inside}</svg>"#)
    }

    #[test]
    fn shapes_and_text_are_drawn() {
        let half = drawing(r#"<rect width="50" height="20"/>"#);
        assert!((inked(&half) - 0.5).abs() < 1e-3);
        let text = r#"<text y="15" font-family="Helvetica,Arial,sans-serif" font-size="12">accuracy</text>"#;
        assert!(inked(&drawing(text)) > 0.03);
        assert_eq!(inked(&drawing("")), 0.0);
    }

    #[test]
    fn what_is_no_drawing_is_refused() {
        assert!(png("<p>").is_err());
    }
}
