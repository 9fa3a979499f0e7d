//! A volume that turns, with the answers of every model, as an animated picture.

use std::iter;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use steer3d_eval::metrics::argmax;
use steer3d_eval::{Turning, axis_name};

use crate::error::ReportError;
use crate::gallery::PNG_URI;
use crate::raster::pixels;
use crate::svg::{Anchor, Svg, colour, shorten};

/// How fast the volume turns.
const STEPS_PER_SECOND: u16 = 6;

/// Side of the picture of the volume, the most where its pixels do not divide it.
const PICTURE: usize = 168;

/// Most pixels along a side of a picture, steps, and probabilities of a step: more than any report has.
const MOST: usize = 512;

const MARGIN: f64 = 16.0;
const TOP: f64 = 40.0;
/// Where the bars begin, how long they are, and how far lines lie apart.
const BARS: f64 = 316.0;
const LENGTH: f64 = 100.0;
const LINE: f64 = 18.0;

/// An animated PNG of a turn that goes on for ever: the volume, and the probabilities that each model gives.
///
/// # Errors
/// [`ReportError::Turning`] if the data are not those of a report, [`ReportError::Picture`] if they cannot be encoded.
pub fn animation(turning: &Turning) -> Result<Vec<u8>, ReportError> {
    let fault = |problem| ReportError::Turning { id: turning.id.clone(), problem };
    let pictures = pictures(turning).map_err(fault)?;
    let drawn = |step: usize| {
        let drawing = drawing(turning, &pictures[step], step).file();
        pixels(&drawing, 1.0).map_err(fault)
    };
    let (mut file, first) = (vec![], drawn(0)?);
    let mut encoder = png::Encoder::new(&mut file, first.width(), first.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    // Flat colours are smallest as they are.
    encoder.set_filter(png::Filter::NoFilter);
    encoder.set_animated(pictures.len() as u32, 0)?;
    encoder.set_frame_delay(1, STEPS_PER_SECOND)?;
    let mut writer = encoder.write_header()?;
    for pixels in iter::once(Ok(first)).chain((1..pictures.len()).map(drawn)) {
        let pixels = pixels?;
        // Colours are multiplied by the opacity; what is left of it is white paper.
        let on_white = |pixel: &[u8]| [0, 1, 2].map(|c| pixel[c] + (255 - pixel[3]));
        let colours = pixels.data().chunks_exact(4).flat_map(on_white);
        writer.write_image_data(&colours.collect::<Vec<u8>>())?;
    }
    writer.finish()?;
    Ok(file)
}

/// The grey pixels of every step, or what is wrong with the data.
fn pictures(turning: &Turning) -> Result<Vec<Vec<u8>>, String> {
    let Turning { size: [width, height], classes, answers, .. } = turning;
    let steps = answers.first().map_or(0, |answer| answer.probabilities.len());
    let counts = [*width, *height, steps, classes.len().saturating_mul(answers.len())];
    if counts.iter().any(|n| !(1..=MOST).contains(n)) {
        return Err(format!(
            "width, height, steps, answers of a step: expected 1 to {MOST}, found {counts:?}"
        ));
    }
    let fits = |rows: &Vec<Vec<f64>>| {
        rows.len() == steps && rows.iter().all(|row| row.len() == classes.len())
    };
    if !answers.iter().all(|answer| fits(&answer.probabilities)) {
        return Err("models have other numbers of steps or classes".into());
    }
    let coded = turning.uri.strip_prefix(PNG_URI).ok_or("its picture is no PNG")?;
    let bytes = STANDARD.decode(coded).map_err(|e| e.to_string())?;
    let decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    let mut reader = decoder.read_info().map_err(|e| e.to_string())?;
    let mut pixels = vec![0; width * height * steps];
    if reader.output_buffer_size() != Some(pixels.len()) {
        return Err(format!("its picture has not {steps} times {width} × {height} grey pixels"));
    }
    reader.next_frame(&mut pixels).map_err(|e| e.to_string())?;
    Ok(pixels.chunks_exact(width * height).map(<[u8]>::to_vec).collect())
}

/// One step.
fn drawing(turning: &Turning, picture: &[u8], step: usize) -> Svg {
    let steps = turning.answers[0].probabilities.len();
    let lines = turning.answers.len() * (turning.classes.len() + 2);
    let height = TOP + (lines as f64 * LINE).max(PICTURE as f64 + LINE) + MARGIN;
    let mut svg = Svg::new(BARS + LENGTH + 56.0, height, &turning.id);
    let class = turning.class.as_ref().map_or_else(String::new, |class| format!(": {class}"));
    svg.text(
        "title",
        [MARGIN, 24.0],
        Anchor::Start,
        &shorten(&format!("{}{class}", turning.id), 60),
    );
    let [width, rows] = turning.size;
    let side = (PICTURE / width.max(rows)).max(1) as f64;
    for (i, &grey) in picture.iter().enumerate() {
        let place = [i % width, i / width].map(|n| n as f64 * side);
        svg.square([MARGIN + place[0], TOP + place[1]], side, grey);
    }
    let degrees = 360.0 * step as f64 / steps as f64;
    let angle = format!("turned by {degrees:.0}° about {}", axis_name(turning.axis));
    svg.text("muted", [MARGIN, TOP + rows as f64 * side + LINE], Anchor::Start, &angle);
    let mut y = TOP + 10.0;
    for (model, answer) in turning.answers.iter().enumerate() {
        let row = &answer.probabilities[step];
        svg.text("title", [BARS - 112.0, y], Anchor::Start, &shorten(&answer.model, 30));
        for (class, (name, &share)) in turning.classes.iter().zip(row).enumerate() {
            y += LINE;
            svg.text("small", [BARS - 8.0, y], Anchor::End, &shorten(name, 16));
            let opacity = if class == argmax(row) { 1.0 } else { 0.38 };
            let bar = [LENGTH * share.clamp(0.0, 1.0), 12.0];
            svg.rect(&format!("f{}", colour(model)), [BARS, y - 10.0], bar, opacity);
            let words = format!("{:.1} %", 100.0 * share);
            svg.text("small", [BARS + LENGTH + 48.0, y], Anchor::End, &words);
        }
        y += 2.0 * LINE;
    }
    svg
}
