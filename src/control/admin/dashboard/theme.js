// Before the first paint, so that nothing flashes: the theme that was chosen here, if one was.
(() => {
  try {
    const theme = localStorage.getItem('arus.theme');
    if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  } catch { /* no storage: as the system says */ }
})();
