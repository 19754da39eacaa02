// What comes up over a page: a question before something is changed, the list of keys, and short notices.

import { h, patch } from './dom.js';

/** Asks before something is done; resolves to whether it is to be. */
export function confirm({ title, text, act, grave }) {
  return new Promise((resolve) => {
    const dialog = document.createElement('dialog');
    dialog.className = 'ask';
    dialog.setAttribute('aria-label', title);
    const end = (answer) => {
      dialog.close();
      dialog.remove();
      resolve(answer);
    };
    dialog.addEventListener('cancel', () => end(false));
    patch(dialog, [h('form', { onsubmit: (event) => { event.preventDefault(); end(true); } },
      h('h2', null, title), h('p', null, text),
      h('div', { class: 'buttons' },
        h('button', { type: 'button', class: 'button', onclick: () => end(false) }, 'Cancel'),
        h('button', { type: 'submit', class: `button ${grave ? 'danger' : 'primary'}`, autofocus: true }, act)))]);
    document.body.append(dialog);
    dialog.showModal();
  });
}

export function showKeys(keys) {
  const dialog = document.createElement('dialog');
  dialog.className = 'ask keys';
  dialog.setAttribute('aria-label', 'Keyboard shortcuts');
  dialog.addEventListener('close', () => dialog.remove());
  patch(dialog, [h('form', { method: 'dialog' },
    h('h2', null, 'Keyboard shortcuts'),
    h('dl', { class: 'facts' }, keys.map(([key, what]) => h('div', { key }, h('dt', null, h('kbd', null, key)), h('dd', null, what)))),
    h('div', { class: 'buttons' }, h('button', { class: 'button primary', autofocus: true }, 'Close')))]);
  document.body.append(dialog);
  dialog.showModal();
}

/** A notice that goes away by itself; read out by screen readers. */
export function notice(text, tone = 'good') {
  let box = document.getElementById('notices');
  if (!box) {
    box = document.createElement('div');
    box.id = 'notices';
    box.setAttribute('role', 'status');
    document.body.append(box);
  }
  const item = document.createElement('div');
  item.className = `notice ${tone}`;
  item.textContent = text;
  box.append(item);
  setTimeout(() => item.remove(), tone === 'bad' ? 9000 : 4000);
}
