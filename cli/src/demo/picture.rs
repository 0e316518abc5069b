//! The picture put together from what the clients read back, and its file.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use super::scene::{HEIGHT, WIDTH};

/// Bytes of one pixel as the GPU stores it: blue, green, red, unused.
pub(crate) const PIXEL_BYTES: usize = 4;

/// A picture that is filled strip by strip.
pub(crate) struct Picture {
    rgb: Vec<u8>,
    painted: Vec<bool>,
}

impl Picture {
    /// An empty picture.
    pub(crate) fn new() -> Self {
        let rows = HEIGHT as usize;
        Self { rgb: vec![0; rows * WIDTH as usize * 3], painted: vec![false; rows] }
    }

    /// Puts a strip of full rows in its place. The only change to the pixels is that their bytes
    /// are put in the order PNG wants.
    ///
    /// # Errors
    /// A sentence, when the strip lies outside the picture, has another size than it says or
    /// covers rows that were painted before.
    pub(crate) fn place(&mut self, first_row: u32, rows: u32, pixels: &[u8]) -> Result<(), String> {
        let (first, rows, width) = (first_row as usize, rows as usize, WIDTH as usize);
        if pixels.len() != rows * width * PIXEL_BYTES {
            return Err(format!("a strip of {rows} rows came with {} bytes", pixels.len()));
        }
        let painted = self.painted.get_mut(first..first + rows).ok_or_else(|| {
            format!("a strip at row {first} with {rows} rows lies outside the picture")
        })?;
        if painted.contains(&true) {
            return Err(format!("row {first} and following were painted twice"));
        }
        painted.fill(true);
        let target = self.rgb.chunks_exact_mut(3).skip(first * width);
        for (to, from) in target.zip(pixels.chunks_exact(PIXEL_BYTES)) {
            to.copy_from_slice(&[from[2], from[1], from[0]]);
        }
        Ok(())
    }

    /// Writes the picture as PNG.
    ///
    /// # Errors
    /// Rows are missing, or the file cannot be written.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(row) = self.painted.iter().position(|painted| !painted) {
            return Err(io::Error::other(format!("nobody painted row {row}")));
        }
        let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), WIDTH, HEIGHT);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Balanced);
        let mut writer = encoder.write_header().map_err(io::Error::other)?;
        writer.write_image_data(&self.rgb).map_err(io::Error::other)?;
        writer.finish().map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strip(rows: u32, pixel: [u8; 4]) -> Vec<u8> {
        pixel.repeat(rows as usize * WIDTH as usize)
    }

    #[test]
    fn strips_land_in_their_rows_with_channels_in_order() {
        let mut picture = Picture::new();
        picture.place(0, 300, &strip(300, [1, 2, 3, 0])).unwrap();
        picture.place(300, 468, &strip(468, [4, 5, 6, 0])).unwrap();
        let pixel = |row: usize, column: usize| {
            let at = (row * WIDTH as usize + column) * 3;
            picture.rgb[at..at + 3].to_vec()
        };
        assert_eq!(pixel(0, 0), [3, 2, 1]);
        assert_eq!(pixel(299, 1023), [3, 2, 1]);
        assert_eq!(pixel(300, 0), [6, 5, 4]);
        assert_eq!(pixel(767, 1023), [6, 5, 4]);
    }

    #[test]
    fn wrong_strips_are_refused() {
        let mut picture = Picture::new();
        assert!(picture.place(0, 2, &strip(1, [0; 4])).is_err(), "short");
        assert!(picture.place(767, 2, &strip(2, [0; 4])).is_err(), "outside");
        picture.place(10, 2, &strip(2, [0; 4])).unwrap();
        assert!(picture.place(11, 1, &strip(1, [0; 4])).is_err(), "twice");
    }

    #[test]
    fn an_unfinished_picture_is_not_saved() {
        let path = std::env::temp_dir().join(format!("gpu-broker-{}.png", std::process::id()));
        let error = Picture::new().save(&path).unwrap_err();
        assert_eq!(error.to_string(), "nobody painted row 0");
        assert!(!path.exists());
    }

    #[test]
    fn the_file_holds_the_pixels() {
        let mut picture = Picture::new();
        picture.place(0, HEIGHT, &strip(HEIGHT, [0x33, 0x22, 0x11, 0xff])).unwrap();
        let path = std::env::temp_dir().join(format!("gpu-broker-{}-full.png", std::process::id()));
        picture.save(&path).unwrap();
        let decoder = png::Decoder::new(io::BufReader::new(File::open(&path).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((info.width, info.height), (WIDTH, HEIGHT));
        assert_eq!(bytes, picture.rgb);
    }
}
