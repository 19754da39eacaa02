// Who are you? A user with a password, or a token.

import { post } from '../api.js';
import { h } from '../dom.js';
import { choice, field } from '../parts.js';

const form = { way: 'user', error: '', busy: false };

export function view({ app, enter }) {
  const change = (changes) => {
    Object.assign(form, changes);
    app.render();
  };
  const submit = async (event) => {
    event.preventDefault();
    const fields = event.target.elements;
    const body = form.way === 'user' ? { user: fields.user.value, password: fields.password.value } : { token: fields.token.value.trim() };
    change({ busy: true, error: '' });
    try {
      const me = await post('login', body);
      change({ busy: false });
      enter(me);
    } catch (error) {
      const text = { 401: form.way === 'user' ? 'User or password is wrong.' : 'arus does not know this token.', 429: 'Too many attempts. Wait a minute, then try again.' };
      change({ busy: false, error: text[error.code] ?? error.message });
    }
  };
  return h('main', { class: 'login', id: 'main', key: 'login' },
    h('form', { class: 'login-card', onsubmit: submit, 'aria-label': 'Log in' },
      h('div', { class: 'brand' },
        h('svg', { viewBox: '0 0 32 32', class: 'mark', 'aria-hidden': 'true' }, h('rect', { width: 32, height: 32, rx: 8 }), h('path', { d: 'M7 11h7c5 0 5 10 10 10h1M7 21h5M20 11h5' })),
        h('h1', { class: 'brand-name' }, 'arus')),
      choice({ label: 'Log in with', options: [['user', 'User'], ['token', 'Token']], value: form.way, onchange: (way) => change({ way, error: '' }) }),
      form.way === 'user'
        ? [
          field('User', h('input', { name: 'user', key: 'user', autocomplete: 'username', required: true, autocapitalize: 'none', spellcheck: 'false', ref: (node) => node.focus() })),
          field('Password', h('input', { name: 'password', key: 'password', type: 'password', autocomplete: 'current-password', required: true })),
        ]
        : field('Token', h('input', { name: 'token', key: 'token', type: 'password', autocomplete: 'off', required: true })),
      form.error && h('p', { class: 'form-error', role: 'alert', key: 'error' }, form.error),
      h('button', { type: 'submit', class: 'button primary wide-button', disabled: form.busy, key: 'submit' }, form.busy ? 'Checking …' : 'Log in'),
      form.way === 'token' && h('p', { class: 'hint', key: 'hint' }, 'Without users and tokens in its configuration arus makes a token at its start, logs it, and keeps it in ', h('code', null, 'admin.token'), ' under state_dir.')));
}
