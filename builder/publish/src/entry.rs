//! The scripts between DHCP and a channel's pointer.

use std::path::Path;

use imgbuild_progress::Progress;

use crate::{Error, disk};

/// By its second line imgbuild knows an entry point as its own.
const MARK: &str = "# imgbuild entry 1";

/// `/boot.ipxe`. A node's script is fetched first and run then, so that one that is there and fails is not taken for one
/// that is absent: that machine must not boot somebody else's image.
const ENTRY: &str = "#!ipxe
# imgbuild entry 1
# The entry point of this boot server for every machine: have DHCP hand out its URL to iPXE. It is replaced by imgbuild;
# what a machine boots is said in nodes/MAC.ipxe (such as nodes/52-54-00-12-34-56.ipxe), or else in nodes/default.ipxe.
# An iPXE from before 2021 does not know its script's URL: there, whoever chains here sets netboot-base to the URL of this
# tree with a slash at its end; otherwise http://NEXT-SERVER/ is assumed.
isset ${netboot-base} || set netboot-base ${cwduri} ||
isset ${netboot-base} || set netboot-base http://${next-server}/
:again
imgfree
imgfetch --name node nodes/${netX/mac:hexhyp}.ipxe || goto default
imgexec --autofree node || goto failed
exit 0
:default
echo No nodes/${netX/mac:hexhyp}.ipxe here: taking nodes/default.ipxe
imgfetch --name node nodes/default.ipxe || goto failed
imgexec --autofree node || goto failed
exit 0
:failed
echo This machine (${netX/mac}) got nothing to boot from ${netboot-base}: trying again in 30 seconds
sleep 30
goto again
";

/// Writes the entry point, unless somebody else's stands there.
pub(crate) fn write(root: &Path, progress: &dyn Progress) -> Result<(), Error> {
    let path = root.join("boot.ipxe");
    match std::fs::read_to_string(&path) {
        Ok(text) if text == ENTRY => Ok(()),
        Ok(text) if text.lines().nth(1) != Some(MARK) => {
            progress.note(format!("{} is not imgbuild's and is left as it is", path.display()));
            Ok(())
        }
        Ok(_) => disk::replace(&path, ENTRY),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => disk::replace(&path, ENTRY),
        Err(source) => Err(disk::failed("read", &path)(source)),
    }
}

/// Writes what machines without a script of their own boot, if nothing says so yet.
pub(crate) fn write_default(root: &Path, name: &str, channel: &str) -> Result<(), Error> {
    let path = disk::folder(root, Path::new("nodes"))?.join("default.ipxe");
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    disk::replace(
        &path,
        &format!(
            "#!ipxe
# What machines without a nodes/MAC.ipxe boot. Written once by imgbuild; change it as you like. Before the chain may stand:
#   set netboot-append console=ttyS1,115200      more kernel parameters
#   set netboot-initrd /nodes/site.img           one more initrd segment
chain --autofree ../channels/{name}/{channel}.ipxe
"
        ),
    )
}
