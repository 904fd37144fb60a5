use serde_json::Value;

use super::*;

fn leaf(path: &str, size: u64, status: Status) -> Leaf {
    Leaf {
        path: path.into(),
        size,
        stored: size / 2,
        layer: Some("base".into()),
        package: path.contains("bin").then(|| "tool".into()),
        before: None,
        status,
    }
}

fn heading(title: &str) -> data::Heading {
    data::Heading { title: title.into(), facts: String::new(), against: None, changes: None }
}

fn tree(leaves: Vec<Leaf>) -> Value {
    serde_json::to_value(data::page(&heading("x"), leaves)).unwrap()
}

/// Files and bytes below a node.
fn sums(node: &Value) -> (u64, u64) {
    match node["k"].as_array() {
        None => (node["f"].as_u64().unwrap_or(1), node["s"].as_u64().unwrap_or(0)),
        Some(children) => children.iter().map(sums).fold((0, 0), |(f, s), (g, t)| (f + g, s + t)),
    }
}

fn nodes(node: &Value) -> usize {
    1 + node["k"].as_array().map_or(0, |children| children.iter().map(nodes).sum())
}

#[test]
fn files_are_nested_by_folder() {
    let page = tree(vec![leaf("/usr/bin/x", 10, Status::Same), leaf("/init", 3, Status::Added)]);
    assert_eq!(page["layers"], serde_json::json!(["base"]));
    let usr = &page["root"]["k"][0];
    assert_eq!((usr["n"].as_str(), usr["k"][0]["n"].as_str()), (Some("usr"), Some("bin")));
    let file = serde_json::json!({ "n": "x", "s": 10, "c": 5, "l": 0, "p": 0 });
    assert_eq!(usr["k"][0]["k"][0], file);
    assert_eq!(page["root"]["k"][1]["d"], "a");
}

#[test]
fn folders_without_end_take_no_room_on_the_stack() {
    let deep = |end: &str| leaf(&format!("/{}{end}", "d/".repeat(20_000)), 10, Status::Same);
    let page = data::page(&heading("x"), vec![deep("one"), deep("two"), leaf("/init", 3, Status::Same)]);
    assert!(render(&page).contains("d/d/one"));
    let page = serde_json::to_value(&page).unwrap();
    assert_eq!(sums(&page["root"]), (3, 23));
}

#[test]
fn thousands_of_small_files_are_put_together_and_none_is_lost() {
    let mut leaves: Vec<_> = (0..15_000)
        .map(|n| {
            leaf(
                &format!("/usr/share/{}/{}/{n}", n % 40, n % 400),
                10,
                if n % 2 == 0 { Status::Same } else { Status::Changed },
            )
        })
        .collect();
    leaves.extend((0..100).map(|n| leaf(&format!("/usr/bin/{n}"), 1_000_000, Status::Same)));
    let total: u64 = leaves.iter().map(|leaf| leaf.size).sum();
    let page = tree(leaves);
    assert_eq!(sums(&page["root"]), (15_100, total));
    assert!(nodes(&page["root"]) < 300, "{} nodes", nodes(&page["root"]));
    // What changed is not put together with what did not.
    let text = page.to_string();
    assert!(text.contains("\"d\":\"c\"") && text.contains("\"f\":"), "{text}");
}

#[test]
fn nothing_in_a_name_becomes_markup_and_nothing_is_fetched() {
    let hostile = "</script><script>alert(1)</script>";
    let leaves = vec![leaf(&format!("/usr/{hostile}"), 10, Status::Same), leaf("/*SCRIPT*/", 1, Status::Same)];
    let html = render(&data::page(&heading(&format!("<b>{hostile}")), leaves));
    assert!(!html.contains("alert(1)</script>"), "{html}");
    assert_eq!(html.matches("<script").count(), 2);
    assert!(html.contains("<title>&lt;b&gt;&lt;/script&gt;"), "the title is not escaped");
    assert!(html.contains("default-src 'none'"));
    for outside in ["http:", "https:", "src=", "@import", "url("] {
        assert!(!html.contains(outside), "the page names {outside}");
    }
    let json = html.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
    let page: Value = serde_json::from_str(json).unwrap();
    assert_eq!(sums(&page["root"]), (2, 11));
}
