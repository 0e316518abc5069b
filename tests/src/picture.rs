//! Whether a PNG is a picture: decodes, has a size, and was painted all over.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// What a picture turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Picture {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// How many different colours.
    pub colours: usize,
    /// How many pixels are black through and through: memory that nobody painted is zero.
    pub unpainted: usize,
}

/// Reads a PNG.
///
/// # Errors
/// In words, what is wrong with it.
pub fn read(path: &Path) -> Result<Picture, String> {
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut reader =
        png::Decoder::new(BufReader::new(file)).read_info().map_err(|error| error.to_string())?;
    let bytes = reader.output_buffer_size().ok_or("the picture is larger than memory")?;
    let mut pixels = vec![0; bytes];
    let frame = reader.next_frame(&mut pixels).map_err(|error| error.to_string())?;
    if frame.bit_depth != png::BitDepth::Eight {
        return Err(format!("{:?} bits per channel instead of 8", frame.bit_depth));
    }
    let channels = frame.color_type.samples();
    let pixels = pixels.get(..frame.buffer_size()).ok_or("the picture is cut off")?;
    let mut colours = HashSet::new();
    let mut unpainted = 0;
    for pixel in pixels.chunks_exact(channels) {
        let colour = pixel.get(..channels.min(3)).unwrap_or(pixel);
        unpainted += usize::from(colour.iter().all(|channel| *channel == 0));
        colours.insert(colour);
    }
    Ok(Picture { width: frame.width, height: frame.height, colours: colours.len(), unpainted })
}

/// Reads the demo's picture and says what is wrong with it, if anything.
///
/// # Errors
/// In words.
pub fn check(path: &Path) -> Result<Picture, String> {
    let picture = read(path)?;
    let pixels = u64::from(picture.width) * u64::from(picture.height);
    if pixels < 400 * 300 {
        return Err(format!("{picture:?} is no more than a thumbnail"));
    }
    if picture.colours < 16 {
        return Err(format!("{picture:?} has hardly any colours"));
    }
    if picture.unpainted as u64 * 2 > pixels {
        return Err(format!("{picture:?} is mostly unpainted"));
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(
        width: u32,
        height: u32,
        colour: impl Fn(u32) -> [u8; 3],
    ) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let mut encoder = png::Encoder::new(&file, width, height);
        encoder.set_color(png::ColorType::Rgb);
        let pixels: Vec<u8> = (0..width * height).flat_map(colour).collect();
        let mut writer = encoder.write_header().expect("the header is right");
        writer.write_image_data(&pixels).expect("it has the right size");
        drop(writer);
        file
    }

    #[test]
    fn a_painted_picture_passes_and_others_do_not() {
        let byte = |n: u32| u8::try_from(n & 0xff).expect("masked");
        let good = written(400, 300, |n| [byte(n), byte(n >> 8), 200]);
        let picture = check(good.path()).expect("it is painted all over");
        assert_eq!((picture.width, picture.height, picture.unpainted), (400, 300, 0));
        assert!(check(written(400, 300, |_| [0; 3]).path()).is_err(), "black");
        assert!(check(written(400, 300, |_| [9; 3]).path()).is_err(), "one colour");
        let half = written(400, 300, |n| if n < 70_000 { [0; 3] } else { [byte(n), 1, 1] });
        assert!(check(half.path()).is_err(), "more than half unpainted");
        assert!(check(written(40, 30, |n| [byte(n), 1, 1]).path()).is_err(), "small");
        std::fs::write(good.path(), "no PNG").expect("it is ours");
        assert!(check(good.path()).is_err(), "no PNG");
    }
}
