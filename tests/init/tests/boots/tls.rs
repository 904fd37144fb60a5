//! Boot servers with certificates.

use imgbuild_tests_init::{Authority, Https};

use super::*;

#[test]
fn a_server_is_believed_if_the_recipes_authority_signed_for_it() -> Result<()> {
    let server = good_server()?;
    server.document("/node.json", r#"{"hostname": "n1"}"#)?;
    let (ours, another) = (Authority::new()?, Authority::new()?);
    let https = Https::before(&server, &ours)?;
    let parameters = format!("netboot.root={} netboot.config={}", https.at("/root.squashfs"), https.at("/node.json"));
    let boot_with = |name: &str, ca: &[u8]| {
        let initrd = Materials::get().initrd(name, &Image { ca: Some(ca), ..Image::default() })?;
        Machine::new(&initrd).cmdline(&parameters).card("virtio-net-pci", MAC).boot()
    };
    let boot = boot_with("tls", &ours.pem)?;
    assert_boots(&boot);
    assert_eq!(boot.facts().get("hostname"), Some(&"n1"));
    let boot = boot_with("tls-other", &another.pem)?;
    let words = ["/node.json: TLS: invalid peer certificate: ", "the recipe's [root] ca"];
    assert_fails(&boot, "get this node's configuration", &words);
    Ok(())
}
