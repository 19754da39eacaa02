// Elements as plain values, and patching the document to look like them: what stays is kept, so that focus, selection
// and scroll positions survive every refresh. Text only ever becomes text nodes and attributes, never markup.

const SVG = new Set(['svg', 'path', 'circle', 'rect', 'line', 'g']);

/** An element. Props: attributes, `onclick` and the like, `style` (an object), `key`, `ref` (called once with the node),
 *  `update` (called with the node after every patch). Children: elements, strings, numbers; nothing for null and false. */
export function h(tag, props, ...children) {
  return { tag, props: props ?? {}, children: flatten(children) };
}

function flatten(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false && child !== true && child !== '');
}

/** Makes the children of `parent` look like `next`. */
export function patch(parent, next) {
  const keyed = new Map();
  const free = [];
  for (const node of parent.childNodes) {
    if (node.arusKey !== undefined) keyed.set(node.arusKey, node);
    else free.push(node);
  }
  const nodes = next.map((wanted) => {
    const key = wanted.props?.key;
    const kind = wanted.tag ?? '#text';
    if (key !== undefined) {
      const node = keyed.get(key);
      if (node?.arusKind === kind) {
        keyed.delete(key);
        return node;
      }
      return make(wanted);
    }
    const at = free.findIndex((node) => node.arusKind === kind);
    return at >= 0 ? free.splice(at, 1)[0] : make(wanted);
  });
  for (const node of [...keyed.values(), ...free]) node.remove();
  let place = parent.firstChild;
  nodes.forEach((node, index) => {
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
    dress(node, next[index]);
  });
}

function make(wanted) {
  if (wanted.tag === undefined) {
    const node = document.createTextNode('');
    node.arusKind = '#text';
    return node;
  }
  const node = SVG.has(wanted.tag) ? document.createElementNS('http://www.w3.org/2000/svg', wanted.tag) : document.createElement(wanted.tag);
  node.arusKind = wanted.tag;
  node.arusKey = wanted.props.key;
  return node;
}

function dress(node, wanted) {
  if (wanted.tag === undefined) {
    const text = String(wanted);
    if (node.data !== text) node.data = text;
    return;
  }
  const before = node.arusProps ?? {};
  const { props } = wanted;
  for (const name in before) if (!(name in props)) set(node, name, undefined, before[name]);
  for (const name in props) if (props[name] !== before[name] || name === 'style' || !(name in before)) set(node, name, props[name], before[name]);
  const isNew = node.arusProps === undefined;
  node.arusProps = props;
  patch(node, wanted.children);
  // A select has its value only once it has its options.
  if (wanted.tag === 'select' && 'value' in props && (isNew || props.value !== before.value)) node.value = props.value;
  if (isNew) props.ref?.(node);
  props.update?.(node);
}

function set(node, name, value, before) {
  if (name === 'key' || name === 'ref' || name === 'update') return;
  if (name.startsWith('on')) {
    node[name] = value ?? null;
  } else if (name === 'style') {
    for (const property in before) if (!(property in (value ?? {}))) node.style.removeProperty(property);
    for (const property in value) node.style.setProperty(property, value[property]);
  } else if ((name === 'value' && node.arusKind !== 'option') || name === 'checked') {
    if (node[name] !== value) node[name] = value ?? '';
  } else if (value === undefined || value === null || value === false) {
    node.removeAttribute(name);
  } else {
    node.setAttribute(name, value === true ? '' : String(value));
  }
}
