//! Packs a folder, as mksquashfs would: `pack FOLDER IMAGE [zstd:9|gzip:9|xz:6|lz4|lz4-hc|lzo|none] [BLOCK SIZE] [THREADS]`.

#![allow(clippy::print_stdout)]

#[path = "../tests/it/folder.rs"]
mod folder;

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use imgbuild_squashfs::{Compression, Options, write};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, image, rest @ ..] = arguments.as_slice() else {
        return Err("usage: pack FOLDER IMAGE [zstd:9|gzip:9|xz:6|lz4|lz4-hc|lzo|none] [BLOCK SIZE] [THREADS]".into());
    };
    let mut options = Options::default();
    if let Some(compression) = rest.first() {
        options.compression = match compression.split_once(':').unwrap_or((compression, "")) {
            ("zstd", level) => Compression::Zstd { level: level.parse()? },
            ("gzip", level) => Compression::Gzip { level: level.parse()? },
            ("xz", level) => Compression::Xz { level: level.parse()? },
            ("lz4", "") => Compression::Lz4 { high: false },
            ("lz4-hc", "") => Compression::Lz4 { high: true },
            ("lzo", "") => Compression::Lzo,
            ("none", "") => Compression::None,
            _ => {
                return Err(
                    format!("{compression}: not zstd:LEVEL, gzip:LEVEL, xz:LEVEL, lz4, lz4-hc, lzo or none").into()
                );
            }
        };
    }
    if let Some(block_size) = rest.get(1) {
        options.block_size = block_size.parse()?;
    }
    if let Some(threads) = rest.get(2) {
        options.threads = threads.parse()?;
    }
    let tree = folder::load(Path::new(folder))?;
    let start = Instant::now();
    let summary = write(&tree, File::create(image)?, &options, &|_| {})?;
    println!("{summary:#?}\n{:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}
