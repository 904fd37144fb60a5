//! Shows what is in an image, whoever wrote it: `dump IMAGE [hash]`, the latter with the SHA-256 of every file.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs::File;

use imgbuild_squashfs::read::Image;
use imgbuild_tree::DumpOptions;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (image, content) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [image] => (image, false),
        [image, "hash"] => (image, true),
        _ => return Err("usage: dump IMAGE [hash]".into()),
    };
    let image = Image::open(File::open(image)?)?;
    println!("{:#?}", image.superblock());
    print!("{}", image.tree()?.dump(DumpOptions { mtime: true, content, origin: false })?);
    Ok(())
}
