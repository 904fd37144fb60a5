//! What boot loaders read: `boot.ipxe`, `grub.cfg` and `pxelinux.cfg`.
//!
//! They lie beside the kernel, are never changed, and work behind any server's name: kernel and initrd are named
//! relative to the file itself. The root alone needs a whole URL, since it is the running kernel that fetches it.
//!
//! `boot.ipxe` honours these iPXE settings, which whoever chains to it (a node's script, an embedded script) may set:
//!
//! | setting | meaning |
//! |---|---|
//! | `netboot-append` | more kernel parameters, after all others |
//! | `netboot-initrd` | URL of one more initrd segment; it is loaded last, so its files win |
//! | `netboot-base` | URL of the boot server's tree, with a slash at its end; needed only where iPXE does not know the URL of the script it runs (before 2021, Debian 12's among them) and the tree is not at `http://NEXT-SERVER/` |

use std::collections::BTreeMap;

use crate::manifest::{Kernel, Manifest};
use crate::{Error, INITRD, KERNEL, ROOT};

/// iPXE's script in a bundle.
pub const IPXE: &str = "boot.ipxe";
/// GRUB's configuration in a bundle.
pub const GRUB: &str = "grub.cfg";
/// PXELINUX's configuration in a bundle.
pub const PXELINUX: &str = "pxelinux.cfg";
/// How iPXE names the segment of the setting `netboot-initrd`, on the kernel's command line too.
const EXTRA: &str = "extra.img";

/// All boot files of a bundle, by name; none when it has no kernel.
///
/// # Errors
/// [`Error::CommandLine`] for a kernel parameter that a boot loader would change.
pub fn all(manifest: &Manifest) -> Result<BTreeMap<&'static str, String>, Error> {
    if manifest.kernel.is_none() {
        return Ok(BTreeMap::new());
    }
    Ok(BTreeMap::from([(IPXE, boot_ipxe(manifest)?), (GRUB, grub_cfg(manifest)?), (PXELINUX, pxelinux_cfg(manifest)?)]))
}

/// The script with which iPXE boots this version.
///
/// # Errors
/// [`Error::NoKernel`], and [`Error::CommandLine`] for a kernel parameter that iPXE would change.
pub fn boot_ipxe(manifest: &Manifest) -> Result<String, Error> {
    let kernel = kernel(manifest)?;
    let (name, version) = (&manifest.name, &manifest.version);
    let root = parameters(manifest, "${netboot-url}");
    // EFI kernels ask for each initrd by the name it has here; BIOS loads all of them and does not look.
    Ok(format!(
        "#!ipxe
# {name} {version}, written by imgbuild and never changed. What a node's script may set before it chains here:
#   netboot-append  more kernel parameters
#   netboot-initrd  URL of one more initrd segment
#   netboot-base    URL of this boot server with a slash at its end, for an iPXE that does not know ${{cwduri}}
isset ${{netboot-base}} || set netboot-base http://${{next-server}}/
set netboot-url ${{netboot-base}}{path}/
isset ${{cwduri}} && set netboot-url ${{cwduri}} ||
set netboot-initrds initrd={INITRD}
isset ${{netboot-initrd}} && set netboot-initrds initrd={INITRD} initrd={EXTRA} ||
echo {name} {version} from ${{netboot-url}}
imgfree
kernel --name {KERNEL} {KERNEL} ${{netboot-initrds}} {cmdline}{root} BOOTIF=01-${{netX/mac:hexhyp}} ${{netboot-append}} || goto failed
initrd --name {INITRD} {INITRD} || goto failed
isset ${{netboot-initrd}} || goto start
initrd --name {EXTRA} ${{netboot-initrd}} || goto failed
:start
boot || goto failed
:failed
echo {name} {version} did not start: see the line above, and whether ${{netboot-url}} has all its files
imgfree
exit 1
",
        path = path(manifest),
        cmdline = words(&kernel.cmdline),
    ))
}

/// The configuration with which GRUB boots this version:
/// `configfile (http,SERVER)/images/NAME/VERSION/grub.cfg`.
///
/// # Errors
/// [`Error::NoKernel`], and [`Error::CommandLine`] for a kernel parameter that GRUB would change.
pub fn grub_cfg(manifest: &Manifest) -> Result<String, Error> {
    let kernel = kernel(manifest)?;
    let (name, version) = (&manifest.name, &manifest.version);
    let quoted: Vec<String> = kernel.cmdline.iter().flat_map(|entry| split(entry)).map(grub_word).collect();
    Ok(format!(
        "# {name} {version}, written by imgbuild and never changed. What may be set before `configfile` comes here:
#   netboot_server  HOST or HOST:PORT of the boot server; without it, the one that DHCP named
#   netboot_append  more kernel parameters
if [ -z \"$netboot_server\" ]; then
  set netboot_server=\"$net_default_server\"
fi
set default=0
set timeout=3
menuentry '{name} {version}' {{
  linux \"$config_directory/{KERNEL}\" {cmdline}{root} BOOTIF=01-$net_default_mac $netboot_append
  initrd \"$config_directory/{INITRD}\"
}}
",
        cmdline = words(&quoted),
        root = parameters(manifest, &format!("http://$netboot_server/{}/", path(manifest))),
    ))
}

/// The configuration with which PXELINUX boots this version. PXELINUX has no variables, so the boot server's name is
/// left as `BOOTSERVER`, to be filled in by whoever copies the file into `pxelinux.cfg/`.
///
/// # Errors
/// [`Error::NoKernel`], and [`Error::CommandLine`] for a kernel parameter that PXELINUX would change.
pub fn pxelinux_cfg(manifest: &Manifest) -> Result<String, Error> {
    let kernel = kernel(manifest)?;
    let (name, version, path) = (&manifest.name, &manifest.version, path(manifest));
    Ok(format!(
        "# {name} {version}, written by imgbuild. Copy it to pxelinux.cfg/default (or that of a MAC) and put the name or address
# of the boot server for BOOTSERVER; the paths are relative to the boot server's tree.
DEFAULT {name}
PROMPT 0
LABEL {name}
  MENU LABEL {name} {version}
  KERNEL {path}/{KERNEL}
  INITRD {path}/{INITRD}
  APPEND {cmdline}{root}
  SYSAPPEND 2
",
        cmdline = words(&kernel.cmdline),
        root = parameters(manifest, &format!("http://BOOTSERVER/{path}/")),
    ))
}

/// Where this version lies in the boot server's tree.
fn path(manifest: &Manifest) -> String {
    format!("images/{}/{}", manifest.name, manifest.version)
}

/// What tells netboot-init where its root is; nothing when it lies in the initrd.
fn parameters(manifest: &Manifest, base: &str) -> String {
    match manifest.files.get(ROOT) {
        Some(root) if manifest.delivery != "embed" => {
            format!("netboot.root={base}{ROOT} netboot.sha256={}", root.sha256)
        }
        _ => String::new(),
    }
}

fn words(words: &[String]) -> String {
    words.iter().map(|word| format!("{word} ")).collect()
}

/// The parameters of an entry, which may hold several: a blank between double quotes belongs to one.
fn split(entry: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let at_blank = move |c: char| {
        quoted ^= c == '"';
        c == ' ' && !quoted
    };
    entry.split(at_blank).filter(|word| !word.is_empty())
}

/// A word that GRUB's shell hands on as it is. One with double quotes is left to GRUB, which reads them as the kernel does.
fn grub_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,.:/+@%\"".contains(c);
    if word.contains('"') || word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

/// The kernel, once its command line is known to come through every loader unchanged.
fn kernel(manifest: &Manifest) -> Result<&Kernel, Error> {
    let kernel = manifest
        .kernel
        .as_ref()
        .ok_or_else(|| Error::NoKernel { name: manifest.name.clone(), version: manifest.version.clone() })?;
    for word in &kernel.cmdline {
        let reason = if word.chars().any(char::is_control) {
            "a control character ends the boot loader's line"
        } else if word.contains('$') {
            "iPXE and GRUB expand `$`"
        } else if word.contains(['\'', '\\', '`']) {
            "GRUB takes it for a quote"
        } else if word.split(' ').any(|part| part.starts_with('#') || part == "&&" || part == "||") {
            "iPXE ends its command there"
        } else if word.contains([';', '{', '}', '<', '>', '|', '&']) && word.contains('"') {
            "GRUB ends its command there"
        } else {
            continue;
        };
        return Err(Error::CommandLine { word: word.clone(), reason });
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> (tempfile::TempDir, Manifest) {
        let temp = tempfile::tempdir().unwrap();
        let manifest = crate::testing::bundle(temp.path());
        (temp, manifest)
    }

    #[test]
    fn ipxe_names_everything_relative_but_the_root() {
        let (_temp, manifest) = manifest();
        let text = boot_ipxe(&manifest).unwrap();
        assert!(text.starts_with("#!ipxe\n"));
        let sum = &manifest.files[ROOT].sha256;
        let line = text.lines().find(|line| line.starts_with("kernel ")).unwrap();
        assert_eq!(
            line,
            format!(
                "kernel --name vmlinuz vmlinuz ${{netboot-initrds}} console=ttyS0,115200 \
                 netboot.root=${{netboot-url}}root.squashfs netboot.sha256={sum} BOOTIF=01-${{netX/mac:hexhyp}} \
                 ${{netboot-append}} || goto failed"
            )
        );
        for label in ["failed", "start"] {
            assert!(text.contains(&format!("\n:{label}\n")), "{label}");
        }
        assert!(!text.contains("goto failed ||"));
    }

    #[test]
    fn an_embedded_root_is_not_fetched() {
        let (_temp, mut manifest) = manifest();
        manifest.delivery = "embed".into();
        for (name, text) in all(&manifest).unwrap() {
            assert!(!text.contains("netboot.root"), "{name}");
        }
    }

    #[test]
    fn a_root_only_bundle_has_no_boot_files() {
        let (_temp, mut manifest) = manifest();
        manifest.kernel = None;
        assert!(all(&manifest).unwrap().is_empty());
        assert!(matches!(boot_ipxe(&manifest), Err(Error::NoKernel { .. })));
    }

    #[test]
    fn parameters_that_a_loader_would_change_are_refused() {
        let (_temp, mut manifest) = manifest();
        for bad in ["a=${x}", "a\nb", "#x", "a=it's", "&&", "a=\"x; y\""] {
            manifest.kernel.as_mut().unwrap().cmdline = vec![bad.to_owned()];
            for result in [boot_ipxe(&manifest), grub_cfg(&manifest), pxelinux_cfg(&manifest)] {
                assert!(matches!(result, Err(Error::CommandLine { .. })), "{bad}");
            }
        }
        manifest.kernel.as_mut().unwrap().cmdline = vec!["dyndbg=\"file x.c +p\"".to_owned(), "a=b;c".to_owned()];
        assert!(boot_ipxe(&manifest).unwrap().contains(" dyndbg=\"file x.c +p\" a=b;c netboot.root="));
        assert!(grub_cfg(&manifest).unwrap().contains(" dyndbg=\"file x.c +p\" 'a=b;c' netboot.root="));
    }

    /// Quoted as a whole, GRUB would hand it on as one parameter with a blank in it.
    #[test]
    fn an_entry_of_several_parameters_comes_out_as_several() {
        let (_temp, mut manifest) = manifest();
        manifest.kernel.as_mut().unwrap().cmdline =
            vec!["console=tty0  quiet".to_owned(), "a=b;c d".to_owned(), "x=\"y  z\" u".to_owned()];
        let text = grub_cfg(&manifest).unwrap();
        assert!(text.contains("/vmlinuz\" console=tty0 quiet 'a=b;c' d x=\"y  z\" u netboot.root="), "{text}");
        assert!(boot_ipxe(&manifest).unwrap().contains(" console=tty0  quiet a=b;c d x=\"y  z\" u netboot.root="));
    }

    /// GRUB's own checker reads what we wrote.
    #[test]
    fn grub_accepts_its_file() {
        let (temp, mut manifest) = manifest();
        manifest.kernel.as_mut().unwrap().cmdline.extend(["a=b;c".to_owned(), "x=\"y z\"".to_owned()]);
        let path = temp.path().join(GRUB);
        std::fs::write(&path, grub_cfg(&manifest).unwrap()).unwrap();
        let output =
            std::process::Command::new("grub-script-check").arg(&path).output().expect("grub-common is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn pxelinux_leaves_the_servers_name_to_be_filled_in() {
        let (_temp, manifest) = manifest();
        let text = pxelinux_cfg(&manifest).unwrap();
        assert!(text.contains("\n  KERNEL images/worker/1.4.2/vmlinuz\n"));
        assert!(text.contains("netboot.root=http://BOOTSERVER/images/worker/1.4.2/root.squashfs netboot.sha256="));
    }
}
