for (const figure of document.querySelectorAll('.turning')) {
  const answers = JSON.parse(figure.dataset.answers), steps = answers[0].length;
  const [slider, image, angle] = ['input', 'img', 'output'].map(name => figure.querySelector(name));
  const percent = share => `${(100 * share).toFixed(1)} %`;
  const fill = (table, shares) => {
    const rows = [...table.rows], top = shares.indexOf(Math.max(...shares));
    rows.forEach((row, i) => {
      row.classList.toggle('top', i === top);
      row.querySelector('i').style.width = `${100 * shares[i]}%`;
      row.cells[2].textContent = percent(shares[i]);
    });
    const known = rows.some(row => row.classList.contains('is'));
    const mark = known ? (rows[top].classList.contains('is') ? ' ✓' : ' ✗') : '';
    table.caption.lastChild.textContent = mark;
    table.caption.className = known ? (mark === ' ✓' ? 'good' : 'bad') : '';
    return `${table.caption.textContent}: ${rows[top].cells[0].textContent} ${percent(shares[top])}`;
  };
  const show = () => {
    const step = Number(slider.value);
    angle.textContent = `${Math.round(360 * step / steps)}°`;
    image.style.transform = `translateY(${-100 * step / steps}%)`;
    const said = [...figure.querySelectorAll('table')].map((table, i) => fill(table, answers[i][step]));
    slider.setAttribute('aria-valuetext', [angle.textContent, ...said].join(', '));
  };
  slider.addEventListener('input', show);
  show();
}
