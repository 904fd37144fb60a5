//! The corpus of the tar and merge fuzzer, through the code that the fuzzer runs.

#[path = "../../../tests/fuzz/bodies/tar_merge.rs"]
mod tar_merge;

#[test]
fn the_corpus_of_the_fuzzer() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/tar_merge");
    let mut files = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let is_seed = path.file_name().unwrap().as_encoded_bytes().starts_with(b"seed-");
        let merged = tar_merge::run(&std::fs::read(&path).unwrap());
        assert!(merged || !is_seed, "{}", path.display());
        files += 1;
    }
    assert!(files >= 11, "{files}");
}
