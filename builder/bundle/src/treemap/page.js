'use strict';
// Draws the tree in #data. Its nodes: n name, s bytes, c bytes compressed, b bytes before, l layer, p package, d change,
// f number of files it stands for, k what is in a folder. See data.rs.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const $ = (id) => document.getElementById(id);
  const compared = data.heading.against !== null;
  const CHANGES = { a: 'added', r: 'removed', c: 'changed', m: 'renamed', s: 'the same' };
  const COLOURS = { a: 'added', r: 'removed', c: 'changed', m: 'renamed', s: 'same' };
  // Neighbours in this list differ most; what is beyond it shares one colour.
  const HUES = [255, 55, 150, 320, 95, 200, 20, 285, 120, 230, 350, 75];
  const NAMES = { l: data.layers, p: data.packages, t: [] };
  const WORDS = { l: 'layer', p: 'package', t: 'folder' };
  const state = {
    metric: 's', colour: compared ? 'd' : data.packages.length > 0 ? 'p' : data.layers.length > 0 ? 'l' : 't',
    at: data.root, selected: null, only: null, find: '',
  };

  // ---- the tree ---------------------------------------------------------------------------------------------------
  const bytes = (n) => {
    let value = n;
    for (const unit of ['B', 'kB', 'MB', 'GB']) {
      if (value < 999.95) return unit === 'B' ? `${value} B` : `${value.toFixed(1)} ${unit}`;
      value /= 1000;
    }
    return `${value.toFixed(1)} TB`;
  };
  const plural = (n, word) => `${n.toLocaleString('en')} ${word}${n === 1 ? '' : 's'}`;
  const join = (node, name) => `${node.path === '/' ? '' : node.path}/${name}`;

  function prepare(node, up) {
    node.up = up;
    node.path = up ? join(up, node.n || '…') : '/';
    node.s ||= 0;
    node.c ||= 0;
    for (const child of node.k || []) prepare(child, node);
  }

  // Numbers the folders below the top ones (/usr/bin, /var/lib), the largest first.
  function number() {
    const sums = new Map();
    const folder = (leaf) => `/${leaf.path.split('/').slice(1, -1).slice(0, 2).join('/')}`;
    leaves(data.root, (leaf) => sums.set(folder(leaf), (sums.get(folder(leaf)) || 0) + leaf.s));
    NAMES.t = [...sums].sort((a, b) => b[1] - a[1]).map(([path]) => path);
    const numbers = new Map(NAMES.t.map((path, index) => [path, index]));
    leaves(data.root, (leaf) => { leaf.t = numbers.get(folder(leaf)); });
  }

  const shown = (node) => node.d !== 'r' || state.colour === 'd';

  // Sums for the present settings; what was removed is in them only where changes are coloured.
  function weigh(node) {
    if (!node.k) {
      node.sum = shown(node) ? { s: node.s, c: node.c, f: node.f || 1 } : { s: 0, c: 0, f: 0 };
    } else {
      node.sum = { s: 0, c: 0, f: 0 };
      for (const child of node.k) {
        weigh(child);
        for (const key of ['s', 'c', 'f']) node.sum[key] += child.sum[key];
      }
      node.k.sort((a, b) => b.sum[state.metric] - a.sum[state.metric] || (a.n < b.n ? -1 : 1));
    }
    node.v = node.sum[state.metric];
  }

  function leaves(node, visit) {
    if (!node.k) visit(node);
    else for (const child of node.k) leaves(child, visit);
  }

  // ---- colours ----------------------------------------------------------------------------------------------------
  const key = (node) => (state.colour === 'd' ? node.d || 's' : node[state.colour] ?? 'none');

  function colour(k) {
    if (state.colour === 'd') return `var(--${COLOURS[k]})`;
    if (k === 'none') return 'var(--none)';
    if (k < 0 || k >= HUES.length) return 'var(--rest)';
    return `oklch(var(--l) var(--c) ${HUES[k]})`;
  }

  function label(k) {
    if (state.colour === 'd') return CHANGES[k];
    if (k === 'none') return `no ${WORDS[state.colour]}`;
    if (k === 'rest') return `other ${WORDS[state.colour]}s`;
    return NAMES[state.colour][k];
  }

  const group = (k) => (state.colour !== 'd' && k !== 'none' && (k < 0 || k >= HUES.length) ? 'rest' : k);

  // The colour of the greater part of a folder that is too small to be opened.
  function common(node) {
    const sums = new Map();
    leaves(node, (leaf) => sums.set(key(leaf), (sums.get(key(leaf)) || 0) + leaf.v));
    let best = 'none', most = -1;
    for (const [k, sum] of sums) if (sum > most) [best, most] = [k, sum];
    return best;
  }

  // ---- layout: Bruls, Huizing, van Wijk, "Squarified Treemaps" (2000) ---------------------------------------------
  function squarify(items, x, y, w, h, place) {
    let total = 0;
    for (const item of items) total += item.v;
    if (!(total > 0) || w < 1 || h < 1) return;
    const scale = (w * h) / total;
    let index = 0;
    while (index < items.length && items[index].v > 0) {
      const side = Math.min(w, h);
      let end = index, sum = 0, worst = Infinity;
      while (end < items.length && items[end].v > 0) {
        const next = sum + items[end].v * scale;
        const largest = items[index].v * scale, smallest = items[end].v * scale;
        const ratio = Math.max((side * side * largest) / (next * next), (next * next) / (side * side * smallest));
        if (ratio > worst) break;
        worst = ratio;
        sum = next;
        end += 1;
      }
      const thick = Math.min(sum / side, w >= h ? w : h);
      let along = 0;
      for (; index < end; index += 1) {
        const long = (items[index].v * scale) / thick;
        if (w >= h) place(items[index], x, y + along, thick, long);
        else place(items[index], x + along, y, long, thick);
        along += long;
      }
      if (w >= h) { x += thick; w -= thick; } else { y += thick; h -= thick; }
    }
  }

  // ---- drawing ----------------------------------------------------------------------------------------------------
  const map = $('map');
  let drawn = [];

  const element = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const title = (node) => node.f ? `${plural(node.f, 'more file')}` : node.n || '/';

  function draw() {
    drawn = [];
    unplace(data.root);
    for (let node = state.selected; node !== state.at; node = node && node.up) if (!node) { state.selected = null; break; }
    const box = map.getBoundingClientRect();
    const into = document.createDocumentFragment();
    if (state.at.v > 0) inside(state.at, into, 0, 0, 0, box.width, box.height, 0);
    else into.append(element('div', 'empty', 'nothing here'));
    const mark = element('div');
    mark.id = 'mark';
    into.append(mark);
    map.replaceChildren(into);
    filter();
    select(state.selected, false);
  }

  function unplace(node) {
    node.box = null;
    for (const child of node.k || []) unplace(child);
  }

  function inside(folder, into, left, top, x, w, h, depth) {
    squarify(folder.k, x, top, w, h, (node, nx, ny, nw, nh) => {
      // Whole pixels, with edges shared by neighbours.
      const px = Math.round(nx), py = Math.round(ny);
      const pw = Math.round(nx + nw) - px, ph = Math.round(ny + nh) - py;
      if (pw >= 2 && ph >= 2) one(node, into, px, py, pw, ph, depth);
    });
  }

  // Folders with nothing in them but another folder are drawn as one.
  const only = (node) => {
    const [first, second] = node.k || [];
    return first && first.k && first.v > 0 && !(second && second.v > 0) ? first : null;
  };

  function one(node, into, x, y, w, h, depth) {
    let name = node.n;
    const chain = [node];
    for (let next = only(node); next; next = only(next)) {
      name += `/${next.n}`;
      chain.push(next);
      node = next;
    }
    const open = node.k && w > 26 && h > 34;
    const made = element('div', open ? `folder${depth % 2 ? ' odd' : ''}` : 'cell');
    made.style.cssText = `left:${x}px;top:${y}px;width:${w - 1}px;height:${h - 1}px`;
    made.node = node;
    const whole = into.nodeType === Node.DOCUMENT_FRAGMENT_NODE;
    const place = { x: x + (whole ? 0 : into.dx), y: y + (whole ? 0 : into.dy), w: w - 1, h: h - 1 };
    for (const each of chain) each.box = place;
    made.dx = place.x;
    made.dy = place.y;
    drawn.push(made);
    into.append(made);
    if (open) {
      const head = element('b', '', `${name} `);
      head.append(element('small', '', bytes(node.v)));
      made.append(head);
      inside(node, made, 0, 17, 2, w - 5, h - 20, depth + 1);
      return;
    }
    made.style.backgroundColor = colour(node.k ? common(node) : key(node));
    if (node.d === 'r') made.classList.add('gone');
    if (w < 32 || h < 16) {
      made.classList.add('tiny');
      return;
    }
    made.append(node.k ? `${name}/` : title(node));
    if (h > 30) made.append(element('small', '', bytes(node.v)));
  }

  // What does not match legend and search steps back.
  function filter() {
    const find = state.find.toLowerCase();
    const matches = (node) => (state.only === null || group(key(node)) === state.only) &&
      (!find || node.path.toLowerCase().includes(find));
    const active = state.only !== null || find !== '';
    let files = 0, sum = 0;
    if (active) leaves(state.at, (leaf) => { if (leaf.v > 0 && matches(leaf)) { files += leaf.sum.f; sum += leaf.v; } });
    for (const made of drawn) {
      if (!made.classList.contains('cell')) continue;
      let match = !active;
      if (active) leaves(made.node, (leaf) => { match ||= matches(leaf); });
      made.classList.toggle('dim', !match);
    }
    $('found').textContent = active ? `${plural(files, 'file')}, ${bytes(sum)} match` : '';
  }

  function rows(node) {
    const all = [['path', node.f ? node.up.path : node.path]];
    all.push(['size', bytes(node.sum.s) + (node.b === undefined ? '' : `, before ${bytes(node.b)}`)]);
    all.push(['compressed', `about ${bytes(node.sum.c)}`]);
    if (node.k) all.push(['files', node.sum.f.toLocaleString('en')]);
    else {
      for (const [k, word] of [['l', 'layer'], ['p', 'package']]) {
        if (node[k] !== undefined) all.push([word, node[k] < 0 ? 'several' : NAMES[k][node[k]]]);
      }
      if (compared) all.push(['change', CHANGES[node.d || 's']]);
    }
    return all;
  }

  function select(node, say = true) {
    state.selected = node;
    const mark = $('mark');
    mark.hidden = !(node && node.box && node !== state.at);
    if (!mark.hidden) {
      const { x, y, w, h } = node.box;
      mark.style.cssText = `left:${x}px;top:${y}px;width:${w}px;height:${h}px`;
    }
    if (say) {
      const [path, ...rest] = node ? rows(node) : [['', '']];
      $('details').textContent = node ? [node.f ? `${title(node)} in ${path[1]}` : path[1], ...rest.map((r) => r.join(' '))].join(' · ') : '';
    }
  }

  // ---- what stands around the map ---------------------------------------------------------------------------------
  function crumbs() {
    const chain = [];
    for (let node = state.at; node; node = node.up) chain.unshift(node);
    const parts = chain.flatMap((node, index) => {
      const button = element('button', '', index ? node.n : '/');
      button.type = 'button';
      button.onclick = () => go(node);
      if (node === state.at) button.setAttribute('aria-current', 'location');
      return index > 1 ? [element('i', '', '/'), button] : [button];
    });
    const found = element('i');
    found.id = 'found';
    const sum = state.at.sum;
    const facts = `${plural(sum.f, 'file')} · ${bytes(sum.s)} · about ${bytes(sum.c)} compressed`;
    $('crumbs').replaceChildren(...parts, element('em', '', facts), found);
  }

  function legend() {
    const sums = new Map();
    leaves(state.at, (leaf) => {
      const k = group(key(leaf));
      if (leaf.v > 0) sums.set(k, (sums.get(k) || 0) + leaf.v);
    });
    const last = (k) => (k === 'rest' ? 1 : k === 'none' || k === 's' ? 2 : 0);
    const all = [...sums].sort((a, b) => last(a[0]) - last(b[0]) || b[1] - a[1]);
    if (state.only !== null && !sums.has(state.only)) state.only = null;
    $('legend').replaceChildren(...all.map(([k, sum]) => {
      const button = element('button');
      button.type = 'button';
      button.title = label(k);
      button.setAttribute('aria-pressed', state.only === k);
      const swatch = element('i');
      swatch.style.backgroundColor = k === 'rest' ? 'var(--rest)' : colour(k);
      button.append(swatch, element('span', '', label(k)), element('var', '', bytes(sum)));
      button.onclick = () => { state.only = state.only === k ? null : k; legend(); filter(); };
      const item = element('li');
      item.append(button);
      return item;
    }));
    $('legend-title').textContent = { l: 'Layers', p: 'Packages', t: 'Folders', d: 'Changes' }[state.colour];
  }

  function list() {
    const all = state.at.k.filter((node) => node.v > 0);
    const items = all.slice(0, 100).map((node) => {
      const button = element('button');
      button.type = 'button';
      button.title = node.path;
      button.style.setProperty('--share', `${(node.v / state.at.v) * 100}%`);
      button.append(element('span', '', title(node) + (node.k ? '/' : '')), element('var', '', bytes(node.v)));
      button.onclick = () => (node.k ? go(node) : select(node));
      const item = element('li');
      item.append(button);
      return item;
    });
    if (all.length > items.length) items.push(element('li', '', `and ${all.length - items.length} more`));
    $('list').replaceChildren(...items);
  }

  function refresh() {
    crumbs();
    legend();
    list();
    draw();
  }

  function settle() {
    weigh(data.root);
    while (state.at.up && !(state.at.v > 0)) state.at = state.at.up;
    refresh();
  }

  // The folder is in the address, so that the browser's own way back works.
  function go(node) {
    const hash = `#${encodeURI(node.path)}`;
    if (location.hash !== hash && !(node === data.root && !location.hash)) location.hash = hash;
    else arrive();
  }

  function arrive() {
    let here = data.root, path = '';
    try { path = decodeURI(location.hash.slice(1)); } catch { /* not an address of ours */ }
    for (const name of path.split('/').filter(Boolean)) {
      const next = here.k.find((child) => child.k && child.n === name);
      if (!next) break;
      here = next;
    }
    const left = state.at;
    state.at = here;
    state.selected = null;
    for (let node = left; node; node = node.up) if (node.up === here) state.selected = node;
    refresh();
    select(state.selected);
  }

  function choice(id, options, value, change) {
    for (const [k, text] of options) {
      const input = element('input');
      Object.assign(input, { type: 'radio', name: id, value: k, checked: k === value, onchange: () => change(k) });
      const wrap = element('label');
      wrap.append(input, element('span', '', text));
      $(id).append(wrap);
    }
  }

  // ---- hands ------------------------------------------------------------------------------------------------------
  const tip = $('tip');
  let hovered = null;

  function hover(event) {
    const made = event.target.closest('.cell, .folder');
    if (hovered !== made) {
      hovered?.classList.remove('hover');
      if (made?.classList.contains('cell')) made.classList.add('hover');
      hovered = made;
      tip.hidden = !made;
      if (!made) return;
      const [path, ...rest] = rows(made.node);
      const about = element('dl');
      for (const [term, text] of rest) about.append(element('dt', '', term), element('dd', '', text));
      tip.replaceChildren(element('strong', '', made.node.f ? `${title(made.node)} in ${path[1]}` : path[1]), about);
    }
    if (tip.hidden) return;
    const { width, height } = tip.getBoundingClientRect();
    const x = event.clientX + 14, y = event.clientY + 16;
    tip.style.left = `${Math.max(4, x + width > innerWidth - 4 ? event.clientX - width - 10 : x)}px`;
    tip.style.top = `${Math.max(4, y + height > innerHeight - 4 ? event.clientY - height - 10 : y)}px`;
  }

  function leave() {
    hovered?.classList.remove('hover');
    hovered = null;
    tip.hidden = true;
  }

  map.addEventListener('pointermove', hover);
  map.addEventListener('pointerleave', leave);
  map.addEventListener('click', (event) => {
    const made = event.target.closest('.cell, .folder');
    if (!made) return;
    leave();
    let to = made.node;
    // A name leads into its folder, anything else one folder further on the way to it.
    if (event.target.closest('b') === null) while (to.up !== state.at) to = to.up;
    if (to.k) go(to);
    else select(made.node);
  });

  function move(step) {
    const node = state.selected;
    const among = (node ? node.up : state.at).k.filter((sibling) => sibling.v > 0);
    const next = among[node ? among.indexOf(node) + step : 0];
    if (next) select(next);
  }

  map.addEventListener('keydown', (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const node = state.selected;
    const keys = {
      ArrowRight: () => move(1),
      ArrowLeft: () => move(-1),
      ArrowDown: () => (node ? node.k && node.k[0] && node.k[0].v > 0 && select(node.k[0]) : move(0)),
      ArrowUp: () => node && node.up !== state.at && select(node.up),
      Enter: () => node && (node.k ? go(node) : node.up !== state.at && go(node.up)),
      Backspace: () => state.at.up && go(state.at.up),
      Escape: () => (node ? select(null) : state.at.up && go(state.at.up)),
      Home: () => go(data.root),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });

  document.addEventListener('keydown', (event) => {
    if (event.key === '/' && document.activeElement !== $('find')) {
      event.preventDefault();
      $('find').focus();
    }
  });

  $('find').addEventListener('input', (event) => { state.find = event.target.value.trim(); filter(); });
  addEventListener('hashchange', arrive);
  new ResizeObserver(() => draw()).observe(map);

  // ---- beginning --------------------------------------------------------------------------------------------------
  prepare(data.root, null);
  number();
  $('title').textContent = data.heading.title;
  $('facts').textContent = data.heading.facts;
  if (compared) {
    $('changes').textContent = `Against ${data.heading.against}: ${data.heading.changes}`;
    $('changes').hidden = false;
  }
  choice('metric', [['s', 'unpacked'], ['c', 'compressed']], state.metric, (k) => { state.metric = k; settle(); });
  const colours = [...Object.entries(WORDS), ['d', 'change']]
    .filter(([k]) => (k === 'd' ? compared : NAMES[k].length > 0));
  choice('colour', colours, state.colour, (k) => { state.colour = k; state.only = null; settle(); });
  weigh(data.root);
  arrive();
})();
