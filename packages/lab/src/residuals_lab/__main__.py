from residuals_lab.cli import main

raise SystemExit(main())
