use super::*;
use crate::testing::{Root, strings};

fn resolve(index: &ModuleIndex, requests: &[&str]) -> ModuleClosure {
    ModuleClosure::resolve(index, &strings(requests)).unwrap()
}

fn names(closure: &ModuleClosure) -> Vec<&str> {
    closure.modules.iter().map(|module| module.name.as_str()).collect()
}

/// A kernel with virtio's modules as Debian has them.
fn virtio() -> Root {
    let mut root = Root::new();
    root.put_basics();
    root.put_module("kernel/drivers/virtio/virtio.ko", &[]);
    root.put_module("kernel/drivers/virtio/virtio_ring.ko", &[("depends", "virtio")]);
    root.put_module("kernel/drivers/virtio/virtio_pci.ko", &[("depends", "virtio,virtio_ring")]);
    root.put_module("kernel/net/core/failover.ko", &[]);
    root.put_module("kernel/drivers/net/net_failover.ko", &[("depends", "failover")]);
    root.put_module(
        "kernel/drivers/net/virtio_net.ko",
        &[("depends", "virtio_ring,virtio,net-failover"), ("alias", "virtio:d00000001v*")],
    );
    root
}

#[test]
fn dependencies_come_before_what_needs_them() {
    let closure = resolve(&virtio().index(), &["net/virtio"]);
    assert_eq!(
        names(&closure),
        [
            "failover",
            "loop",
            "net_failover",
            "overlay",
            "squashfs",
            "virtio",
            "virtio_ring",
            "virtio_net",
            "virtio_pci"
        ]
    );
    assert_eq!(closure.absent, [Absent { set: "net/virtio", member: "virtio_mmio" }]);
    assert!(closure.unbootable.is_empty() && closure.named.is_empty());
}

#[test]
fn the_indexes_are_depmods() {
    let index = virtio().index();
    let closure = resolve(&index, &["virtio-net"]);
    let dep = closure.modules_dep();
    assert_eq!(
        dep.lines().find(|line| line.starts_with("kernel/drivers/net/virtio_net.ko:")),
        Some(
            "kernel/drivers/net/virtio_net.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko \
             kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko"
        )
    );
    assert!(dep.contains("kernel/net/core/failover.ko:\n"));
    assert_eq!(closure.modules_alias(), "alias virtio:d00000001v* virtio_net\n");
    assert_eq!(closure.modules_softdep(&index).unwrap(), "");
    assert_eq!(closure.named, ["virtio_net"]);
}

#[test]
fn soft_dependencies_come_along_where_they_are() {
    let mut root = virtio();
    root.put_module("kernel/net/phy/realtek.ko", &[]);
    root.put_module("kernel/arch/crc32c-intel.ko", &[("alias", "crc32c"), ("alias", "crypto-crc32c")]);
    root.put_module("kernel/crypto/crc32c_generic.ko", &[("alias", "crc32c"), ("alias", "x*")]);
    root.put_module("kernel/late.ko", &[("softdep", "pre: r8169")]);
    root.put_module("kernel/r8169.ko", &[("softdep", "pre: realtek crc32c nowhere built-in post: late")]);
    root.put_modules("modules.builtin", b"kernel/built_in.ko\n");
    let index = root.index();
    let closure = resolve(&index, &["r8169"]);
    let expected = ["crc32c_generic", "crc32c_intel", "late", "loop", "overlay", "r8169", "realtek", "squashfs"];
    assert_eq!(names(&closure), expected);
    assert_eq!(
        closure.modules_softdep(&index).unwrap(),
        "softdep late pre: r8169\nsoftdep r8169 pre: realtek crc32c_generic crc32c_intel post: late\n"
    );
}

#[test]
fn what_is_built_in_is_no_error() {
    let mut root = Root::new();
    root.put_modules("modules.builtin", b"kernel/fs/overlayfs/overlay.ko\nkernel/drivers/nvme/host/nvme-core.ko\n");
    root.put_module("kernel/drivers/block/loop.ko", &[]);
    root.put_module("kernel/drivers/nvme/host/nvme.ko", &[("depends", "nvme-core")]);
    let index = root.index();
    let closure = resolve(&index, &["nvme", "nvme_core"]);
    assert_eq!(names(&closure), ["loop", "nvme"]);
    assert_eq!(closure.builtin.iter().collect::<Vec<_>>(), ["nvme_core", "overlay"]);
    assert_eq!(closure.named, ["nvme"]);
    assert_eq!(closure.unbootable, ["squashfs"]);
    let states = ["overlay", "loop", "squashfs"].map(|name| closure.driver_state(&index, name));
    assert_eq!(states, [DriverState::Builtin, DriverState::InInitrd, DriverState::Missing]);
    assert_eq!(resolve(&index, &[]).driver_state(&index, "nvme"), DriverState::InRoot);
}

#[test]
fn globs_over_names_and_paths() {
    let index = virtio().index();
    let added = |request: &str| -> Vec<String> {
        let basic = resolve(&index, &[]);
        let closure = resolve(&index, &[request]);
        names(&closure).into_iter().filter(|name| basic.get(name).is_none()).map(str::to_owned).collect()
    };
    assert_eq!(added("net-fail*"), ["failover", "net_failover"]);
    assert_eq!(added("virtio{,_ring}"), ["virtio", "virtio_ring"]);
    assert_eq!(added("kernel/net/**"), ["failover"]);
    assert_eq!(added("drivers/virtio/*_ring.ko"), ["virtio", "virtio_ring"]);
    assert_eq!(added("kernel/net/core/failover.ko"), ["failover"]);
}

#[test]
fn what_stands_for_nothing_names_what_may_be_meant() {
    let index = virtio().index();
    for (request, message) in [
        (
            "virtio_nett",
            "kernel.modules: \"virtio_nett\" is neither a module nor a built-in of kernel 6.1.0-7-test; did you mean virtio_net?",
        ),
        (
            "net/virtoi",
            "\"net/virtoi\" is no named set and no path of a module of kernel 6.1.0-7-test; did you mean net/virtio?",
        ),
        ("xyz_*", "\"xyz_*\" is a glob that matches no module and no built-in of kernel 6.1.0-7-test"),
        ("kernel/drivers/*", "is a glob that matches no module"),
        ("a[", "\"a[\" is no glob: "),
        ("qqqq", "\"qqqq\" is neither a module nor a built-in of kernel 6.1.0-7-test"),
    ] {
        let result = ModuleClosure::resolve(&index, &strings(&[request]));
        let error = result.expect_err(request).to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn incomplete_and_broken_modules() {
    let mut root = Root::new();
    root.put_basics();
    root.put_module("kernel/lonely.ko", &[("depends", "gone")]);
    root.put_module("kernel/a.ko", &[("depends", "b")]);
    root.put_module("kernel/b.ko", &[("depends", "c")]);
    root.put_module("kernel/c.ko", &[("depends", "a")]);
    root.put_modules("kernel/text.ko", b"no module");
    root.put_modules("kernel/cut.ko.xz", b"\xfd7zXZ\0\0\x04cut");
    let index = root.index();
    let error = |request: &str| ModuleClosure::resolve(&index, &strings(&[request])).expect_err(request);
    assert!(error("lonely").to_string().starts_with("lonely needs the module gone, which kernel"));
    assert!(error("a").to_string().starts_with("the modules a, b, c depend on each other in a circle"));
    assert_eq!(error("text").to_string(), "/lib/modules/6.1.0-7-test/kernel/text.ko: it is no ELF file");
    assert_eq!(error("cut").to_string(), "/lib/modules/6.1.0-7-test/kernel/cut.ko.xz: cannot be read");
}

#[test]
fn the_sets_are_well_formed() {
    assert!(sets::SETS.windows(2).all(|pair| pair[0].name < pair[1].name), "sorted and unique");
    for set in sets::SETS {
        assert!(set.members.windows(2).all(|pair| pair[0] < pair[1]), "{}: sorted and unique", set.name);
        assert!(set.members.iter().all(|member| member.contains('/') || normalise(member) == **member), "{}", set.name);
        assert!(sets::markdown().contains(&format!("| `{}` | {} |", set.name, set.about)));
    }
}
