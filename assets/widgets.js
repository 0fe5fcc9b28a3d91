// The widgets' script asks MathJax 2 to typeset labels; MathJax 3 has no such queue, and our labels hold no formulas.
if (window.MathJax) {
  window.MathJax.startup = {
    ready() {
      window.MathJax.startup.defaultReady();
      window.MathJax.Hub = { Queue() {} };
    },
  };
}
