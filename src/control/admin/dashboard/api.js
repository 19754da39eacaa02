// Talking to arus: JSON under /api/v1 with the cookie of the login; changes carry the CSRF word that came with it.

const PATIENCE_MS = 8000;

export class ApiError extends Error {
  constructor(code, message, errors) {
    super(message);
    this.code = code;
    /** Every error of a refused reload. */
    this.errors = errors ?? [];
  }
}

let csrf = '';
export const setCsrf = (word) => { csrf = word ?? ''; };

export const get = (path, query) => call('GET', path, query);
export const post = (path, body) => call('POST', path, undefined, body);
export const del = (path) => call('DELETE', path);

async function call(method, path, query, body) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null && value !== '') search.set(name, value);
  }
  const headers = { accept: 'application/json' };
  if (method !== 'GET') headers['x-arus-csrf'] = csrf;
  if (body !== undefined) headers['content-type'] = 'application/json';
  const text = search.toString();
  let response;
  try {
    response = await fetch(`/api/v1/${path}${text ? `?${text}` : ''}`, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: 'same-origin',
      cache: 'no-store',
      signal: AbortSignal.timeout(method === 'GET' ? PATIENCE_MS : 70_000),
    });
  } catch {
    throw new ApiError(0, 'arus does not answer');
  }
  const answer = await response.json().catch(() => null);
  if (response.ok) return answer;
  const errors = Array.isArray(answer?.errors) ? answer.errors.map(String) : [];
  throw new ApiError(response.status, String(answer?.error ?? errors[0] ?? `arus answered ${response.status}`), errors);
}
